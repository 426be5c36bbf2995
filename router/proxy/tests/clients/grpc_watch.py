"""Opens a watch of an etcd over gRPC and stays silent until it ends. Prints what happened.

    grpc_watch.py ADDRESS AUTHORITY
"""

import os
import queue
import sys

import grpc

address, authority = sys.argv[1:3]
channel = grpc.insecure_channel(address, [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)])
questions = queue.Queue()
# A WatchRequest { create_request { key: "bed" } }.
questions.put(b"\x0a\x05\x0a\x03bed")
stream = channel.stream_stream("/etcdserverpb.Watch/Watch")(iter(questions.get, None), timeout=60)
try:
    next(stream)
    print("open", flush=True)
    next(stream)
except grpc.RpcError as error:
    print("ended", error.code().name, flush=True)
os._exit(0)
