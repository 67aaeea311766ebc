// One Socket.IO process, with all its defaults. Argument: the port; 0 lets the kernel choose.
'use strict';

const http = require('node:http');
const { Server } = require('socket.io');

const server = http.createServer();
const io = new Server(server);

io.on('connection', (socket) => {
  socket.on('where', (answer) => answer(server.address().port));
});

server.listen(Number(process.argv[2] ?? 9001), '127.0.0.1', () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
