// Uses the dashboard as an operator would, in a Chromium that is running already, while clients of
// its own make traffic. Arguments: the browser's DevTools address, the page's, that of the edge's
// WebSockets, the admin token. Prints "restart it" when the process may be killed, "lost it" when
// the page has seen that.
'use strict';

const assert = require('node:assert');
const WebSocket = require('ws');

const { Page } = require('./browser');

const [devtools, url, sockets, TOKEN] = process.argv.slice(2);
const PATIENCE_MS = 20000;
const HOSTILE = '<img src=x onerror="pwned=1">';
const CLIENTS = 40;

let restarting = false;

// The browser itself tells of a refused token, and of a server that is not there.
const isDue = ({ source, text }) =>
  source === 'network' && (/status of 401/.test(text) || (restarting && /net::ERR_/.test(text)));

const page = new Page(devtools, isDue);
const ask = (method, params) => page.ask(method, params);
const evaluate = (expression) => page.evaluate(expression);
const text = (selector) => evaluate(`document.querySelector(${JSON.stringify(selector)})?.textContent`);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  for (let seen; ; await pause(50)) {
    seen = await holds();
    if (seen) return seen;
    assert(Date.now() < deadline, `the page never showed ${what}: ${await text('main')}`);
  }
}

const key = (name, code) => page.press(name, code);
const enter = () => key('Enter', 13);

async function type(words) {
  await ask('Input.insertText', { text: words });
}

// ---- traffic ----

const clients = [];
const closes = [];
let talking = true;

function client(index) {
  const user = index % 4 === 0 ? HOSTILE : `user-${index}`;
  const socket = new WebSocket(sockets, { headers: { 'x-user': user }, perMessageDeflate: false });
  socket.user = user;
  socket.on('error', () => {});
  socket.on('close', (code, reason) => closes.push({ user, code, reason: reason.toString() }));
  socket.on('open', () => {
    const timer = setInterval(() => {
      // The loudest are those that the test looks for.
      if (talking) socket.send('x'.repeat(user === HOSTILE ? 4000 : 100));
    }, 50);
    socket.on('close', () => clearInterval(timer));
  });
  return socket;
}

async function metrics() {
  const answer = await fetch(new URL('metrics', url));
  const samples = (await answer.text()).split('\n').filter((line) => line && !line.startsWith('#'));
  return samples.map((line) => [line.slice(0, line.lastIndexOf(' ')), +line.slice(line.lastIndexOf(' ') + 1)]);
}

async function total(family, ...labels) {
  const all = await metrics();
  const fits = ([name]) => name.startsWith(family) && labels.every((label) => name.includes(label));
  return all.filter(fits).reduce((sum, [, value]) => sum + value, 0);
}

// ---- the page ----

async function open() {
  await page.open(url);
  await until('that it is live', async () => (await text('#state')) === 'live');
}

const number = (words) => parseFloat(words.replace(/,/g, '')) * (/\dk/.test(words) ? 1000 : 1);

async function figuresUnderLoad() {
  await until('all connections', async () => (await text('#tile-connections')) === String(CLIENTS));
  assert.strictEqual(await total('wsgate_connections'), CLIENTS);
  const [from, since] = [await total('wsgate_messages_total'), Date.now()];
  await pause(4000);
  const truly = ((await total('wsgate_messages_total')) - from) / ((Date.now() - since) / 1000);
  await until(`about ${truly} messages a second`, async () => {
    const shown = number(await text('#tile-messages'));
    return Math.abs(shown - truly) < 0.25 * truly;
  });
  await until('a plot of it', () => evaluate(`/L/.test(document.querySelector('#plot-messages-a-second path')?.getAttribute('d'))`));
  await until('a round trip', async () => /^[\d.]+ m?s$/.test(await text('#tile-trip')));
}

// With the traffic at rest what is shown is what /metrics has, to the last byte.
async function figuresAtRest() {
  talking = false;
  const shown = (what) => evaluate(`sum(heard.states.at(-1).routes.flatMap((route) => route.${what}))`);
  await until('the bytes of /metrics', async () =>
    (await shown('bytes')) === (await total('wsgate_bytes_total')) &&
    (await shown('messages')) === (await total('wsgate_messages_total')));
  const row = `[...document.querySelectorAll('#handshakes tbody tr')].find((row) => row.firstChild.textContent === 'ok').lastChild.textContent`;
  assert.strictEqual(number(await evaluate(row)), await total('wsgate_handshakes_total', 'outcome="ok"'));
  const endpoint = `document.querySelector('#endpoints tbody tr').lastChild.textContent`;
  assert.strictEqual(number(await evaluate(endpoint)), await total('wsgate_endpoint_connections'));
  assert.strictEqual(await text('#endpoints tbody .pill'), 'usable');
  talking = true;
}

const rowOf = (subject) => `[...document.querySelectorAll('#top tbody tr')].find((row) => row.firstChild.textContent === ${JSON.stringify(subject)})`;

async function hostileSubject() {
  await until('the hostile subject, as text', () => evaluate(`Boolean(${rowOf(HOSTILE)})`));
  assert.strictEqual(await evaluate(`document.images.length + (typeof pwned === 'undefined' ? 0 : 1)`), 0);
}

// By the keyboard: the button, the token, Enter.
async function press(button) {
  await until('the button', () => evaluate(`(() => { const button = ${button}; button?.focus(); return document.activeElement === button; })()`));
  await enter();
  await until('the question', () => evaluate(`document.querySelector('#ask').open`));
}

async function closeOne() {
  await press(`${rowOf(HOSTILE)}?.querySelector('td.actions button')`);
  assert.strictEqual(await evaluate('document.activeElement.name'), 'token');
  await type('not-the-token-of-this-wsgate');
  await enter();
  await until('that the token is wrong', async () => /not the token/.test(await text('#ask-fault')));
  await type(TOKEN);
  await enter();
  await until('that it is closed', async () => /^Closed /.test(await text('#done')));
  await until('one close', () => closes.length > 0);
  assert.deepStrictEqual(closes, [{ user: HOSTILE, code: 1008, reason: '' }]);
  assert.strictEqual(await evaluate('document.cookie + Object.keys(localStorage).length'), '0');
}

async function kickAll() {
  const left = clients.filter((it) => it.user === HOSTILE && it.readyState === WebSocket.OPEN).length;
  await press(`${rowOf(HOSTILE)}?.querySelector('td.actions button:last-child')`);
  assert.strictEqual(await evaluate(`document.querySelector('#ask-token').hidden`), true);
  await evaluate(`document.querySelector('#ask-form').elements.reason.focus()`);
  await type('enough');
  await enter();
  await until('the kick', async () => (await text('#done')) === `Kicked ${HOSTILE}: ${left} connections.`);
  await until('their closes', () => closes.length === left + 1);
  assert(closes.slice(1).every(({ user, reason }) => user === HOSTILE && reason === 'enough'), JSON.stringify(closes));
  await until('that they are gone', async () => (await text('#tile-connections')) === String(CLIENTS - left - 1));
  const kicked = `[...document.querySelectorAll('#endings tbody tr')].find((row) => row.firstChild.textContent === 'kicked')?.lastChild.textContent`;
  await until('how they ended', async () => (await evaluate(kicked)) === String(left + 1));
  assert.strictEqual(await total('wsgate_endings_total', 'reason="kicked"'), left + 1);
}

async function restart() {
  restarting = true;
  console.log('restart it');
  await until('that the connection is lost', async () => (await text('#state')) === 'connection lost');
  assert.match(await text('#lost'), /what is shown is old/);
  console.log('lost it');
  await until('the new process', async () => (await text('#state')) === 'live' && (await text('#tile-connections')) === '0');
  assert.strictEqual(await evaluate(`document.querySelector('#lost').hidden`), true);
}

// It fits a phone, and the keyboard looks back in a plot.
async function narrow() {
  await ask('Emulation.setDeviceMetricsOverride', { width: 390, height: 800, deviceScaleFactor: 1, mobile: true });
  // With a long line of diagnostics, too.
  await until('that it fits', () => evaluate(`(() => {
    show($('failed'), true);
    write($('diagnostics'), 'x'.repeat(300));
    return document.documentElement.scrollWidth <= 390;
  })()`));
  await evaluate(`document.querySelector('#plot-connections').focus()`);
  await key('ArrowLeft', 37);
  await until('an earlier moment', () => evaluate(`document.querySelector('#plot-connections').getAttribute('aria-label').includes(':')
    && document.querySelector('figcaption span').textContent !== 'now'`));
}

async function main() {
  for (let index = 0; index < CLIENTS; index += 1) clients.push(client(index));
  await open();
  await figuresUnderLoad();
  await figuresAtRest();
  await hostileSubject();
  await closeOne();
  await kickAll();
  await narrow();
  await restart();
  await page.close();
}

page.run(main);
