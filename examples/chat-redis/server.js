// One process of a chat (`ws`): what a member says goes to Redis, and from there to the members of
// every process. Arguments: the port, where 0 lets the kernel choose, and Redis' unix socket; its
// usual port on this machine, where none is given.
'use strict';

const { createServer } = require('node:http');
const { createClient } = require('redis');
const { WebSocket, WebSocketServer } = require('ws');

const [port = '9001', path] = process.argv.slice(2);

async function main() {
  const publisher = createClient(path ? { socket: { path } } : {});
  const subscriber = publisher.duplicate();
  for (const client of [publisher, subscriber]) {
    client.on('error', (error) => console.error(`Redis: ${error.message}`));
    await client.connect();
  }

  const http = createServer();
  const server = new WebSocketServer({ server: http });
  server.on('connection', (member) => {
    member.send(`welcome to the process at ${http.address().port}`);
    member.on('message', (text) => publisher.publish('chat', text.toString()));
  });
  await subscriber.subscribe('chat', (text) => {
    for (const member of server.clients) {
      if (member.readyState === WebSocket.OPEN) member.send(text);
    }
  });
  http.listen(Number(port), '127.0.0.1', () => {
    console.log(`listening on 127.0.0.1:${http.address().port}`);
  });
}

main();
