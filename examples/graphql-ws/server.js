// A GraphQL server (graphql-ws) with one query and one subscription. Argument: the port; 0 lets
// the kernel choose.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { buildSchema } = require('graphql');
const { useServer } = require('graphql-ws/use/ws');
const { WebSocketServer } = require('ws');

const schema = buildSchema(`
  type Query {
    hello(name: String!): String
  }
  type Subscription {
    countdown(from: Int!): Int
  }
`);

const roots = {
  query: { hello: ({ name }) => `Hello, ${name}!` },
  subscription: {
    countdown: async function* ({ from }) {
      for (let countdown = from; countdown >= 0; countdown--) {
        yield { countdown };
        await sleep(100);
      }
    },
  },
};

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2] ?? 9001) });
useServer({ schema, roots }, server);
server.on('listening', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
