// A GraphQL client (graphql-ws): a query, then a subscription. Argument: the server's URL.
'use strict';

const { createClient } = require('graphql-ws');
const WebSocket = require('ws');

const client = createClient({
  url: process.argv[2] ?? 'ws://127.0.0.1:8080/graphql',
  webSocketImpl: WebSocket,
  lazy: false, // one connection for both
  onNonLazyError: fail,
  on: { connected: (socket) => console.log(`connected, speaking ${socket.protocol}`) },
});

async function main() {
  const query = client.iterate({ query: '{ hello(name: "edge") }' });
  for await (const { data } of query) console.log(data.hello);

  const subscription = client.iterate({ query: 'subscription { countdown(from: 3) }' });
  for await (const { data } of subscription) console.log(data.countdown);
  console.log('complete');
  await client.dispose();
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

main().catch(fail);
