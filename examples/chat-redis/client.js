// Two members of a chat, who tell what they hear. Argument: the chat's URL.
'use strict';

const { once } = require('node:events');
const WebSocket = require('ws');

const url = process.argv[2] ?? 'ws://127.0.0.1:8080/chat';

async function join(name) {
  const socket = new WebSocket(url);
  const [welcome] = await once(socket, 'message');
  console.log(`${name} hears: ${welcome}`);
  return { name, socket };
}

// Says it and waits until all have heard it.
async function say(speaker, words, all) {
  const heard = all.map(({ socket }) => once(socket, 'message'));
  speaker.socket.send(`${speaker.name}: ${words}`);
  for (const [place, [text]] of (await Promise.all(heard)).entries()) {
    console.log(`${all[place].name} hears: ${text}`);
  }
}

async function leave({ name, socket }) {
  socket.close(1000, 'bye');
  const [code, reason] = await once(socket, 'close');
  console.log(`${name} leaves: ${code} ${reason}`);
}

async function main() {
  const ada = await join('Ada');
  const bob = await join('Bob');
  await say(ada, 'Is anybody here?', [ada, bob]);
  await say(bob, 'At the other process, yes.', [ada, bob]);
  await leave(ada);
  await leave(bob);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
