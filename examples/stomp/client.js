// A STOMP client (STOMP.js) that hears what it says. Argument: the broker's URL.
'use strict';

const { Client } = require('@stomp/stompjs');

global.WebSocket = require('ws');

const ROOM = '/topic/room';

const client = new Client({
  brokerURL: process.argv[2] ?? 'ws://127.0.0.1:8080/stomp',
  heartbeatIncoming: 500,
  heartbeatOutgoing: 500,
  reconnectDelay: 0,
});

function fail(words) {
  console.error(words);
  process.exit(1);
}

client.onStompError = ({ headers }) => fail(headers.message);
client.onWebSocketError = ({ message }) => fail(message);

client.onConnect = () => {
  console.log(`connected, STOMP ${client.connectedVersion}, over ${client.webSocket.protocol}`);
  client.subscribe(ROOM, ({ body }) => {
    console.log(body.length > 80 ? `${body.length} characters` : body);
    if (body === 'good night') client.deactivate();
  });
  const said = (receipt, then) => client.watchForReceipt(receipt, then);
  client.publish({ destination: ROOM, body: 'good morning' });
  client.publish({ destination: ROOM, body: 'x'.repeat(100000), headers: { receipt: 'long' } });
  said('long', () => {
    console.log('the broker has it');
    // As many heart-beats each way as come in the meantime: STOMP.js gives up when they do not.
    setTimeout(() => client.publish({ destination: ROOM, body: 'good night' }), 2000);
  });
};

client.onDisconnect = () => console.log('disconnected');
client.activate();
