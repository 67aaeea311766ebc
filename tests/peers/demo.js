// Uses the demo's page as a person would, in a Chromium that is running already. Arguments: the
// browser's DevTools address, the page's. When all but the end was seen, it prints "connected" and
// waits for the page to be told that the edge stops.
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const WebSocket = require('ws');

const [devtools, url] = process.argv.slice(2);
const PATIENCE_MS = 20000;

const browser = new WebSocket(devtools, { maxPayload: 64 << 20 });
const asked = new Map();
const faults = [];
let session;

browser.on('message', (data) => {
  const { id, method, params, result, error } = JSON.parse(data);
  if (id) {
    const { resolve, reject } = asked.get(id);
    asked.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  } else if (
    method === 'Runtime.exceptionThrown' ||
    (method === 'Runtime.consoleAPICalled' && ['error', 'assert', 'warning'].includes(params.type)) ||
    (method === 'Log.entryAdded' && params.entry.level !== 'verbose')
  ) {
    faults.push(JSON.stringify(params));
  }
});

function ask(method, params = {}) {
  const id = ask.last = (ask.last || 0) + 1;
  browser.send(JSON.stringify({ id, method, params, sessionId: session }));
  return new Promise((resolve, reject) => asked.set(id, { resolve, reject }));
}

async function evaluate(expression) {
  const answer = await ask('Runtime.evaluate', { expression, returnByValue: true });
  assert(!answer.exceptionDetails, `${expression}: ${JSON.stringify(answer.exceptionDetails)}`);
  return answer.result.value;
}

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

// By the keyboard, to prove that it can be.
async function press(id, key, code) {
  await evaluate(`document.getElementById('${id}').focus()`);
  const event = { key, code: key, windowsVirtualKeyCode: code };
  const text = key === 'Enter' ? '\r' : undefined;
  await ask('Input.dispatchKeyEvent', { type: 'keyDown', text, ...event });
  await ask('Input.dispatchKeyEvent', { type: 'keyUp', ...event });
}

const enter = (id) => press(id, 'Enter', 13);

async function open() {
  await once(browser, 'open');
  const { targetId } = await ask('Target.createTarget', { url: 'about:blank' });
  session = (await ask('Target.attachToTarget', { targetId, flatten: true })).sessionId;
  for (const domain of ['Page', 'Runtime', 'Log']) await ask(`${domain}.enable`);
  const { errorText } = await ask('Page.navigate', { url });
  assert(!errorText, `${url}: ${errorText}`);
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
  assert.deepStrictEqual(faults, []);
  session = undefined;
  await ask('Browser.close');
}

main().then(() => process.exit(0), (error) => {
  console.error(error, faults);
  process.exit(1);
});
