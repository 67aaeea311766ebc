// An MQTT subscriber and a publisher (MQTT.js) over WebSocket. Argument: the broker's URL.
'use strict';

const { once } = require('node:events');
const mqtt = require('mqtt');

const url = process.argv[2] ?? 'ws://127.0.0.1:8080/mqtt';

function show(topic, payload, packet) {
  const text = payload.length > 80 ? `${payload.length} bytes` : payload.toString();
  console.log(`${topic}, QoS ${packet.qos}${packet.retain ? ', retained' : ''}: ${text}`);
}

async function main() {
  const publisher = await mqtt.connectAsync(url, {
    clientId: 'kitchen',
    reconnectPeriod: 0,
    will: { topic: 'kitchen/state', payload: 'vanished', qos: 1 },
  });
  await publisher.publishAsync('kitchen/state', 'awake', { qos: 1, retain: true });

  const subscriber = await mqtt.connectAsync(url, { clientId: 'hall' });
  subscriber.on('message', show);
  const message = () => once(subscriber, 'message');
  await Promise.all([message(), subscriber.subscribeAsync('kitchen/#', { qos: 2 })]);
  for (const qos of [0, 1, 2]) {
    const words = `${20 + qos} °C`;
    await Promise.all([message(), publisher.publishAsync('kitchen/temperature', words, { qos })]);
  }
  const picture = Buffer.alloc(300000, 'x');
  await Promise.all([message(), publisher.publishAsync('kitchen/picture', picture, { qos: 1 })]);

  // Its TCP connection breaks off, as when the power fails: the broker publishes its last will.
  const will = message();
  publisher.stream.destroy();
  await will;
  await subscriber.endAsync();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
