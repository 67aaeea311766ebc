// A Node `ws` client. Arguments: the URL, the authority's file, whether deflate is expected.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { once } = require('node:events');
const WebSocket = require('ws');

const [url, ca, deflate] = process.argv.slice(2);
const SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20, 16 << 20];
const MESSAGES = 10000;

const socket = new WebSocket(url, ['mqtt', 'chat'], {
  ca: fs.readFileSync(ca),
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 },
});

// The messages that came and that nobody has taken yet, and who waits for one.
const arrived = [];
let waiting = null;

socket.on('message', (data, isBinary) => {
  arrived.push([data, isBinary]);
  if (waiting) waiting();
});

async function next() {
  while (arrived.length === 0) {
    await new Promise((resolve) => (waiting = resolve));
    waiting = null;
  }
  return arrived.shift();
}

function pattern(size) {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at++) bytes[at] = (at * 31) % 251;
  return bytes;
}

async function echoes() {
  for (const size of SIZES) {
    const sent = pattern(size);
    socket.send(sent, { binary: true });
    const [binary, isBinary] = await next();
    assert(isBinary && binary.equals(sent), `${size} bytes of binary came back otherwise`);
    const text = 'ä€'.repeat(Math.ceil(size / 5)).slice(0, size / 2) + 'x'.repeat(size % 2);
    socket.send(text);
    const [words, wordsAreBinary] = await next();
    assert(!wordsAreBinary && words.toString() === text, `${size} bytes of text`);
  }
}

async function fragments() {
  for (const binary of [true, false]) {
    for (const part of ['in ', '', 'three ']) socket.send(part, { fin: false, binary });
    socket.send('parts', { fin: true, binary });
    const [data, isBinary] = await next();
    assert.strictEqual(isBinary, binary);
    assert.strictEqual(data.toString(), 'in three parts');
  }
}

async function many() {
  for (let number = 0; number < MESSAGES; number++) socket.send(`message number ${number}`);
  for (let number = 0; number < MESSAGES; number++) {
    const [data] = await next();
    assert.strictEqual(data.toString(), `message number ${number}`);
  }
}

async function main() {
  await once(socket, 'open');
  assert.strictEqual(socket.protocol, 'chat');
  assert.strictEqual(socket.extensions.includes('permessage-deflate'), deflate === 'deflate');
  await echoes();
  await fragments();
  await many();
  socket.close(4000, 'done');
  const [code, reason] = await once(socket, 'close');
  assert.strictEqual(code, 4000);
  assert.strictEqual(reason.toString(), 'done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
