"""A `websockets` server that sends back every message. Prints its port."""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass  # A Close with a code of the client's own is no error here.


async def main():
    async with serve(
        echo, "127.0.0.1", 0, subprotocols=["chat"], max_size=None, ping_interval=None
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
