// An app as people write it: Express with an event stream, long polling and uploads, and Socket.IO
// on the same port. Prints its port.
'use strict';

const http = require('node:http');
const express = require('express');
const { Server } = require('socket.io');

const EVENTS_OF_ONE_CONNECTION = 3;

const app = express();
const server = http.createServer(app);

// Ends after a few events, so that clients have to come back and say where they were.
app.get('/events', (request, response) => {
  const seen = Number(request.get('last-event-id') || 0);
  response.set({ 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write('retry: 50\n\n');
  let id = seen;
  const timer = setInterval(() => {
    id += 1;
    response.write(`id: ${id}\ndata: ${JSON.stringify({ after: seen })}\n\n`);
    if (id === seen + EVENTS_OF_ONE_CONNECTION) response.end();
  }, 20);
  response.on('close', () => clearInterval(timer));
});

// Held until there is news.
const waiting = [];
app.get('/poll', (request, response) => waiting.push(response));
app.post('/news', express.text(), (request, response) => {
  for (const held of waiting.splice(0)) held.json({ news: request.body });
  response.sendStatus(204);
});

app.put('/upload', (request, response) => {
  let bytes = 0;
  request.on('data', (chunk) => (bytes += chunk.length));
  request.on('end', () => response.json({ bytes, from: request.get('x-forwarded-for') }));
});

const io = new Server(server, { maxHttpBufferSize: 4 << 20 });
io.on('connection', (socket) => {
  socket.on('echo', (value, answer) => answer(value));
  socket.on('shout', (value) => io.emit('shouted', value));
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));
