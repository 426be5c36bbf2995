"""Calls an etcd over gRPC, through whatever stands in front of it, and prints what came back.

    grpc_calls.py ADDRESS AUTHORITY [CA]

The C library of gRPC does the talking. Messages are written by hand: a field is (number << 3 | 2), length, bytes.
"""

import os
import queue
import sys

import grpc


def field(number, value):
    length, size = len(value), b""
    while True:
        size += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + size + value


def call(channel, method, message, **more):
    return channel.unary_unary(method)(message, **more)


def failure(run):
    try:
        run()
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "no failure"


address, authority = sys.argv[1:3]
options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
if len(sys.argv) > 3:
    options.append(("grpc.ssl_target_name_override", authority))
    with open(sys.argv[3], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(address, credentials, options)
else:
    channel = grpc.insecure_channel(address, options)

call(channel, "/etcdserverpb.KV/Put", field(1, b"ward") + field(2, b"three"), timeout=20)
answer = call(channel, "/etcdserverpb.KV/Range", field(1, b"ward"), timeout=20)
print("range", b"three" in answer)

large = b"x" * (1 << 20)
call(channel, "/etcdserverpb.KV/Put", field(1, b"large") + field(2, large), timeout=20)
answer = call(channel, "/etcdserverpb.KV/Range", field(1, b"large"), timeout=20)
print("large", large in answer)

print("status", failure(lambda: call(channel, "/etcdserverpb.Auth/UserGet", field(1, b"nobody"), timeout=20)))
print("method", failure(lambda: call(channel, "/etcdserverpb.KV/NoSuch", b"", timeout=20)).split(":")[0])

questions = queue.Queue()
questions.put(field(1, field(1, b"bed")))
stream = channel.stream_stream("/etcdserverpb.Watch/Watch")(iter(questions.get, None), timeout=20)
print("created", len(next(stream)) > 0)
call(channel, "/etcdserverpb.KV/Put", field(1, b"bed") + field(2, b"free"), timeout=20)
print("event", b"free" in next(stream))
stream.cancel()

# More streams than a server allows on one connection, all of them open at once: over several connections of the client.
several = []
for n in range(3):
    own = options + [("grpc.use_local_subchannel_pool", 1), ("n", n)]
    several.append(grpc.secure_channel(address, credentials, own) if len(sys.argv) > 3 else grpc.insecure_channel(address, own))
streams = []
for n in range(180):
    asked = queue.Queue()
    asked.put(field(1, field(1, b"bed")))
    watch = several[n % 3].stream_stream("/etcdserverpb.Watch/Watch")
    streams.append(watch(iter(asked.get, None), timeout=30))
print("many", sum(len(next(stream)) > 0 for stream in streams))
for stream in streams:
    stream.cancel()

silent = channel.stream_stream("/etcdserverpb.Watch/Watch")(iter(queue.Queue().get, None), timeout=0.3)
print("deadline", failure(lambda: next(silent)).split(":")[0])
# The channel's threads wait for a queue that nobody fills.
sys.stdout.flush()
os._exit(0)
