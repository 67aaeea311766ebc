// A small STOMP 1.2 broker over `ws`: topics, receipts and heart-beats, one frame a message, no
// transactions, no headers that need escaping. Argument: the port; 0 lets the kernel choose.
'use strict';

const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2] ?? 9001),
  handleProtocols: (offered) => (offered.has('v12.stomp') ? 'v12.stomp' : false),
});

// Who listens where: a destination's subscriptions, each a socket and an id of its choice.
const topics = new Map();
let number = 0;

function parse(text) {
  const end = text.indexOf('\n\n');
  const [command, ...lines] = text.slice(0, end).split('\n');
  const pairs = lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]);
  return { command, headers: Object.fromEntries(pairs), body: text.slice(end + 2, text.indexOf('\0', end)) };
}

function send(socket, command, headers, body = '') {
  const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
  socket.send(`${command}\n${lines.join('')}\n${body}\0`);
}

const commands = {
  CONNECT(socket) {
    send(socket, 'CONNECTED', { version: '1.2', 'heart-beat': '500,500' });
    const beat = setInterval(() => socket.send('\n'), 500);
    socket.on('close', () => clearInterval(beat));
  },
  SUBSCRIBE(socket, { destination, id }) {
    topics.set(destination, [...(topics.get(destination) ?? []), { socket, id }]);
  },
  UNSUBSCRIBE(socket, { id }) {
    forget((one) => one.socket === socket && one.id === id);
  },
  SEND(_, { destination }, body) {
    for (const { socket, id } of topics.get(destination) ?? []) {
      send(socket, 'MESSAGE', { destination, subscription: id, 'message-id': number++ }, body);
    }
  },
  DISCONNECT() {},
};

function forget(gone) {
  for (const [destination, all] of topics) topics.set(destination, all.filter((one) => !gone(one)));
}

server.on('listening', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
server.on('connection', (socket) => {
  socket.on('close', () => forget((one) => one.socket === socket));
  socket.on('message', (data) => {
    const text = data.toString();
    if (text === '\n') return;
    const { command, headers, body } = parse(text);
    if (!commands[command]) return send(socket, 'ERROR', { message: `no ${command} here` });
    commands[command](socket, headers, body);
    if (headers.receipt) send(socket, 'RECEIPT', { 'receipt-id': headers.receipt });
  });
});
