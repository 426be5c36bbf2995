"""Opens a WebSocket, says hello, and stays silent until the other end closes. Prints what happened.

    websocket_client.py ADDRESS HOST
"""

import asyncio
import sys

import websockets

address, host = sys.argv[1], sys.argv[2]
ip, port = address.rsplit(":", 1)


async def main():
    # The address to connect to is not the host that is asked for.
    async with websockets.connect(f"ws://{host}/ws", host=ip, port=int(port), ping_interval=None) as socket:
        print("open", socket.response_headers.get("domicile-region"), flush=True)
        await socket.send("hello")
        print("heard", await socket.recv(), flush=True)
        try:
            await socket.recv()
        except websockets.ConnectionClosed:
            print("closed", socket.close_code, flush=True)


asyncio.run(asyncio.wait_for(main(), 60))
