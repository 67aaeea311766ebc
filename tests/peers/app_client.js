// Uses app.js as browsers do. Argument: the URL. NODE_EXTRA_CA_CERTS names the authority.
'use strict';

const assert = require('node:assert');
const { EventSource } = require('eventsource');
const { io } = require('socket.io-client');

const [url] = process.argv.slice(2);

// Three connections' worth of events, with none missed and none twice.
async function events() {
  const source = new EventSource(`${url}/events`);
  const seen = [];
  await new Promise((resolve, reject) => {
    source.onmessage = (event) => {
      seen.push([Number(event.lastEventId), JSON.parse(event.data).after]);
      if (seen.length === 9) resolve();
    };
    source.onerror = (error) => error.code && reject(new Error(`${error.code} ${error.message}`));
  });
  source.close();
  assert.deepStrictEqual(
    seen,
    [1, 2, 3, 4, 5, 6, 7, 8, 9].map((id) => [id, 3 * Math.floor((id - 1) / 3)]),
  );
}

async function longPolling() {
  for (let round = 0; round < 5; round++) {
    const polls = [1, 2, 3].map(() => fetch(`${url}/poll`));
    await new Promise((resolve) => setTimeout(resolve, 100));
    const headers = { 'content-type': 'text/plain' };
    const posted = await fetch(`${url}/news`, { method: 'POST', headers, body: `round ${round}` });
    assert.strictEqual(posted.status, 204);
    const answers = await Promise.all(polls);
    for (const answer of answers) {
      assert.deepStrictEqual(await answer.json(), { news: `round ${round}` });
    }
  }
}

async function uploads() {
  for (const bytes of [0, 1, 65536, 8 << 20]) {
    const answer = await fetch(`${url}/upload`, { method: 'PUT', body: Buffer.alloc(bytes, 'x') });
    assert.deepStrictEqual(await answer.json(), { bytes, from: '127.0.0.1' });
  }
  const body = new ReadableStream({
    async start(controller) {
      for (let chunk = 0; chunk < 10; chunk++) {
        controller.enqueue(Buffer.alloc(1000));
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      controller.close();
    },
  });
  const answer = await fetch(`${url}/upload`, { method: 'PUT', body, duplex: 'half' });
  assert.strictEqual((await answer.json()).bytes, 10000);
}

// The transports that come unasked: polling first, then an upgrade to a WebSocket.
async function socketIo() {
  const socket = io(url, { reconnection: false, forceNew: true });
  socket.on('connect_error', (error) => {
    console.error(error);
    process.exit(1);
  });
  // When the namespace is connected, a quick upgrade may be through: the first is asked for at once.
  let first;
  socket.io.on('open', () => (first = socket.io.engine.transport.name));
  await new Promise((resolve) => socket.on('connect', resolve));
  assert.strictEqual(first, 'polling');
  assert.strictEqual(await socket.emitWithAck('echo', 'at first'), 'at first');
  if (socket.io.engine.transport.name !== 'websocket') {
    await new Promise((resolve) => socket.io.engine.on('upgrade', resolve));
  }
  assert.strictEqual(socket.io.engine.transport.name, 'websocket');
  for (let number = 0; number < 100; number++) {
    assert.strictEqual(await socket.emitWithAck('echo', number), number);
  }
  const bytes = Buffer.alloc(1 << 20, 7);
  assert((await socket.emitWithAck('echo', bytes)).equals(bytes));
  socket.disconnect();
}

// Who never upgrades stays with polling.
async function pollingAlone() {
  const socket = io(url, { transports: ['polling'], forceNew: true, reconnection: false });
  await new Promise((resolve) => socket.on('connect', resolve));
  const heard = [];
  socket.on('shouted', (value) => heard.push(value));
  for (let number = 0; number < 20; number++) {
    socket.emit('shout', number);
    assert.strictEqual(await socket.emitWithAck('echo', number), number);
  }
  assert.strictEqual(heard.length, 20);
  assert.strictEqual(socket.io.engine.transport.name, 'polling');
  socket.disconnect();
}

async function main() {
  await events();
  await longPolling();
  await uploads();
  await socketIo();
  await pollingAlone();
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
