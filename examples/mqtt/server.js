// An MQTT broker (aedes) over WebSocket. Argument: the port; 0 lets the kernel choose.
'use strict';

const aedes = require('aedes')();
const { WebSocketServer, createWebSocketStream } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2] ?? 9001),
  handleProtocols: (offered) => (offered.has('mqtt') ? 'mqtt' : false),
});

server.on('listening', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
server.on('connection', (socket, request) => aedes.handle(createWebSocketStream(socket), request));
