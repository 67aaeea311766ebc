# A TLS 1.3 client with one message of TLS that goes on and on, a byte in a record of padding each:
#
#     padding.py HOST PORT STAGE
#
# STAGE is `head` (within a request's head), `dial` (behind an upgrade that is not answered yet) or
# `tunnel` (behind its 101). It ends with 0 when the edge cuts it off within five seconds.

import socket
import sys
import time

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType, HandshakeType
from tlslite.errors import TLSError
from tlslite.messages import Message

host, port, stage = sys.argv[1], int(sys.argv[2]), sys.argv[3]
UPGRADE = (
    b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
    b'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)

settings = HandshakeSettings()
settings.minVersion = settings.maxVersion = (3, 4)
edge = TLSConnection(socket.create_connection((host, port), timeout=5))
edge.handshakeClientCert(serverName='localhost', settings=settings)
edge.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

edge.write(UPGRADE[:20] if stage == 'head' else UPGRADE)
if stage == 'tunnel':
    head = b''
    while b'\r\n\r\n' not in head:
        head += edge.read(max=1)
    assert head.startswith(b'HTTP/1.1 101'), head


def say(content):
    for _ in edge._recordLayer.sendRecord(Message(ContentType.handshake, bytearray(content))):
        pass


began = time.monotonic()
try:
    # Its head claims 65,535 bytes, which is not too many.
    edge._recordLayer.padding_cb = lambda _size, _kind, most: bytes(most)
    say([HandshakeType.key_update, 0, 0xFF, 0xFF])
    for _ in range(9):
        say([0])
    while edge.read(max=4096):
        pass
except TimeoutError:
    sys.exit(f'{stage}: the edge goes on listening')
except (TLSError, OSError) as error:
    print(f'{stage}: {error!r}')
took = time.monotonic() - began
assert took < 5, took
