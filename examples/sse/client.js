// An EventSource that hears nine events, however often it must come back. Argument: their URL.
'use strict';

const { EventSource } = require('eventsource');

const source = new EventSource(process.argv[2] ?? 'http://127.0.0.1:8080/events');

source.addEventListener('open', () => console.log('connected'));

source.addEventListener('message', ({ data, lastEventId }) => {
  console.log(data);
  if (lastEventId === '9') source.close();
});

source.addEventListener('error', ({ code, message }) => {
  if (source.readyState === EventSource.CONNECTING) {
    console.log('the stream ended, and EventSource connects again');
  } else {
    console.error(code, message);
    process.exitCode = 1;
  }
});
