// Fifty Socket.IO clients with the default transports: each begins by polling and goes over to
// WebSocket, loses its connection and comes back. Argument: the server's URL.
'use strict';

const { io } = require('socket.io-client');

const CLIENTS = 50;
const url = process.argv[2] ?? 'http://127.0.0.1:8080';

// Any error is the end: "Session ID unknown" among them, which is what a session's request gets
// from a process that does not know it.
function fail(error) {
  console.error(error.message, error.description ?? '', error.context?.responseText ?? '');
  process.exit(1);
}

function event(emitter, name) {
  return new Promise((resolve) => emitter.once(name, resolve));
}

// Once its connection stands: by which transports it came there, and who serves it.
async function settled(socket) {
  await event(socket.io, 'open');
  const { engine } = socket.io;
  const transports = [engine.transport.name];
  await event(engine, 'upgrade');
  transports.push(engine.transport.name);
  return { transports: transports.join(', then '), where: await socket.emitWithAck('where') };
}

function tell(settled) {
  const transports = new Set(settled.map((one) => one.transports));
  const processes = new Set(settled.map((one) => one.where));
  console.log(`${settled.length} clients: ${[...transports].join('; ')}`);
  console.log(`${processes.size} processes serve them`);
}

async function main() {
  // As a browser does, a client keeps its cookies.
  const options = { forceNew: true, withCredentials: true };
  const sockets = Array.from({ length: CLIENTS }, () => io(url, options));
  for (const socket of sockets) socket.on('connect_error', fail);
  tell(await Promise.all(sockets.map(settled)));

  console.log('all connections are lost');
  const coming = sockets.map(settled);
  for (const socket of sockets) socket.io.engine.close();
  tell(await Promise.all(coming));
  for (const socket of sockets) socket.disconnect();
}

main().catch(fail);
