// A server of events, numbered from 1, three to an answer: the client has to come back for more, and
// says what it saw last. Argument: the port; 0 lets the kernel choose.
'use strict';

const http = require('node:http');

const server = http.createServer((request, answer) => {
  let number = Number(request.headers['last-event-id'] ?? 0);
  const last = number + 3;
  answer.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  answer.write('retry: 200\n\n');
  const ticking = setInterval(() => {
    number++;
    answer.write(`id: ${number}\ndata: event ${number}\n\n`);
    if (number === last) answer.end();
  }, 50);
  answer.on('close', () => clearInterval(ticking));
});

server.listen(Number(process.argv[2] ?? 9001), '127.0.0.1', () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
