// Uses the demo's page as a person would, in a Chromium that is running already. Arguments: the
// browser's DevTools address, the page's. When all but the end was seen, it prints "connected" and
// waits for the page to be told that the edge stops.
'use strict';

const assert = require('node:assert');

const { Page } = require('./browser');

const [devtools, url] = process.argv.slice(2);
const PATIENCE_MS = 20000;

const page = new Page(devtools);
const evaluate = (expression) => page.evaluate(expression);

// The state that the page shows.
const SHOWN = `(() => {
  const text = (id) => document.getElementById(id).textContent;
  return {
    state: text('state'), echoes: +text('count'), trip: text('rtt'), close: text('code'),
    log: [...document.getElementById('log').children].map((line) => line.textContent),
    focus: document.activeElement.id,
  };
})()`;

async function shows(what, fits) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const shown = await evaluate(SHOWN);
    if (fits(shown)) return shown;
    assert(Date.now() < deadline, `the page never showed ${what}: ${JSON.stringify(shown)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const logs = (text) => (shown) => shown.log.some((line) => line.includes(text));

async function press(id, key, code) {
  await evaluate(`document.getElementById('${id}').focus()`);
  await page.press(key, code);
}

const enter = (id) => press(id, 'Enter', 13);

async function open() {
  await page.open(url);
  const deadline = Date.now() + PATIENCE_MS;
  const loaded = `location.href === '${url}' && document.readyState === 'complete'`;
  while (!(await evaluate(loaded))) assert(Date.now() < deadline, `${url} is not loaded`);
}

async function connect() {
  await enter('toggle');
  await shows('a connection', ({ state }) => state === 'connected');
}

// A browser calls a close clean only if all that it was to send had gone out by then.
async function closed(meaning, cleanly = true) {
  const shown = await shows(meaning, ({ state, close }) => state === 'not connected' && close === meaning);
  assert(shown.log.at(-1).includes(`closed: ${meaning}`), shown.log.at(-1));
  if (cleanly) assert(shown.log.at(-1).endsWith(', clean'), shown.log.at(-1));
}

// The two doors, side by side: who has no token is told so, who has one is greeted.
async function knock(who, answer) {
  await enter(who);
  const said = `document.getElementById('${who}-state').textContent`;
  const deadline = Date.now() + PATIENCE_MS;
  while ((await evaluate(said)) !== answer) {
    assert(Date.now() < deadline, `${who} saw ${await evaluate(said)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function main() {
  await open();
  await knock('stranger', 'refused: 4001 unauthorized');
  await knock('member', 'admitted: hello from echo server one');
  await shows('that nothing is connected', ({ state }) => state === 'not connected');

  await connect();
  await shows('whither', logs(`connecting to ${url.replace(/^http/, 'ws')}ws`));
  await shows('a greeting', logs('← hello from echo server one'));
  await evaluate(`document.getElementById('text').value = 'grüß dich'`);
  await enter('text');
  await shows('the echo', logs('← grüß dich'));
  const { trip } = await shows('a round trip', ({ echoes, trip }) => echoes > 0 && trip !== '–');
  assert.match(trip, /^\d+\.\d ms$/);

  await enter('large');
  await closed('1009 too big', false);
  const { focus } = await evaluate(SHOWN);
  assert.strictEqual(focus, 'toggle', 'the focus is where one can go on');

  await connect();
  await enter('toggle');
  await closed('1000 normal');

  await press('path', 'ArrowDown', 40);
  assert.strictEqual(await evaluate(`document.getElementById('path').value`), '/ws/two');
  await connect();
  await shows('the other greeting', logs('← hello from echo server two'));

  console.log('connected');
  await closed('1012 restart');
  await page.close();
}

page.run(main);
