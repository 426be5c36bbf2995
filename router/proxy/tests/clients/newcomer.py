"""A process that asks a running router for its place and never serves: PATH ROLE ID REGION greets|takes|fails."""

import json
import signal
import socket
import sys

path, role, router, region, how = sys.argv[1:]
running = socket.socket(socket.AF_UNIX)
running.connect(path)


def say(**line):
    running.sendall(json.dumps(line).encode() + b"\n")


def hear():
    text = b""
    while not text.endswith(b"\n"):
        more, sockets, _, _ = socket.recv_fds(running, 65536, 8)
        if not more:
            sys.exit("the router has ended it")
        text += more
        print(len(sockets), "sockets", flush=True)
    print("heard", text.decode(), flush=True)


say(step="hello", version=1, role=role, id=router, region=region)
hear()
if how != "greets":
    say(step="take")
    hear()
if how == "fails":
    say(step="failed", why="the newcomer fails on purpose")
signal.pause()
