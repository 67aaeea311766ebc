"""A `websockets` client. Arguments: the URL, the authority's file, whether deflate is expected."""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20, 16 << 20]
MESSAGES = 10_000


async def echoes(socket):
    period = bytes(at * 31 % 251 for at in range(251))
    for size in SIZES:
        sent = (period * (size // 251 + 1))[:size]
        await socket.send(sent)
        assert await socket.recv() == sent, f"{size} bytes of binary came back otherwise"
        text = ("ä€" * (size // 5 + 1))[: size // 2] + "x" * (size % 2)
        await socket.send(text)
        assert await socket.recv() == text, f"{size} bytes of text came back otherwise"


async def fragments(socket):
    await socket.send(["in ", "", "three ", "parts"])
    assert await socket.recv() == "in three parts"
    await socket.send([b"in ", b"", b"three ", b"parts"])
    assert await socket.recv() == b"in three parts"


async def many(socket):
    async def send():
        for number in range(MESSAGES):
            await socket.send(f"message number {number}")

    sending = asyncio.create_task(send())
    for number in range(MESSAGES):
        assert await socket.recv() == f"message number {number}"
    await sending


async def main(url, authority, deflate):
    trusting = ssl.create_default_context(cafile=authority)
    async with connect(
        url,
        ssl=trusting,
        subprotocols=["mqtt", "chat"],
        max_size=None,
        ping_interval=None,
        proxy=None,
    ) as socket:
        agreed = socket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in agreed) == (deflate == "deflate"), agreed
        assert socket.subprotocol == "chat", socket.subprotocol
        await echoes(socket)
        await fragments(socket)
        await many(socket)
        await socket.close(4000, "done")
        assert (socket.close_code, socket.close_reason) == (4000, "done")


asyncio.run(main(*sys.argv[1:]))
