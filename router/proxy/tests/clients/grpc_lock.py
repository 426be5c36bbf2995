"""Asks an etcd for a lock that somebody else has, over gRPC: a unary call that waits. Prints what happened.

    grpc_lock.py ADDRESS AUTHORITY ETCD

The other one has it at ETCD itself, and gives it back when a line comes.
"""

import os
import sys
import threading

import grpc

address, authority, etcd = sys.argv[1:4]
options = [("grpc.enable_http_proxy", 0)]
direct = grpc.insecure_channel(etcd, options)
channel = grpc.insecure_channel(address, options + [("grpc.default_authority", authority)])
# A LockRequest { name: "ward" }, and of the answer the key: field 2, of less than 128 bytes, is its last.
ward = b"\x0a\x04ward"
held = direct.unary_unary("/v3lockpb.Lock/Lock")(ward, timeout=60)
key = held[held.index(b"ward/") :]
call = channel.unary_unary("/v3lockpb.Lock/Lock").future(ward, timeout=60)
print("asked", flush=True)


def give_back():
    if sys.stdin.readline():
        direct.unary_unary("/v3lockpb.Lock/Unlock")(b"\x0a" + bytes([len(key)]) + key, timeout=60)


threading.Thread(target=give_back, daemon=True).start()
try:
    print("answered" if b"ward/" in call.result() else "nothing", flush=True)
except grpc.RpcError as error:
    print("ended", error.code().name, flush=True)
os._exit(0)
