// The dashboard: reads the events of /api/v1/events and shows them. Whatever comes from outside
// goes through textContent. The token is kept in this tab's sessionStorage and goes nowhere but
// into the Authorization of requests to where this page came from.
'use strict';

const POINTS = 300; // seconds that the plots show
const RECENT = 60; // seconds of whole states, for rates and round trips
const SILENCE_MS = 5000; // an event is due each second
const LONGEST_PAUSE_MS = 5000;
const COLOURS = 5; // and one for all others
const NO_ROUTE = '-';

const $ = (id) => document.getElementById(id);
const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- words for numbers ----

function count(n) {
  const steps = [[1e9, 'G'], [1e6, 'M'], [1e4, 'k', 1e3]];
  for (const [from, unit, by = from] of steps) if (n >= from) return `${short(n / by)}${unit}`;
  return n < 10 && n % 1 ? n.toFixed(1) : Math.round(n).toLocaleString('en');
}

function short(n) {
  return (n < 100 ? n.toFixed(1) : n.toFixed(0)).replace(/\.0$/, '');
}

function bytes(n) {
  for (const [from, unit] of [[2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']]) {
    if (n >= from) return `${short(n / from)} ${unit}`;
  }
  return `${Math.round(n)} B`;
}

function span(seconds) {
  const s = Math.floor(seconds);
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min']];
  const at = parts.findIndex(([size]) => s >= size);
  if (at < 0) return `${s} s`;
  const [size, unit] = parts[at];
  const [less, lesser] = parts[at + 1] || [1, 's'];
  const rest = Math.floor((s % size) / less);
  return rest ? `${Math.floor(s / size)} ${unit} ${rest} ${lesser}` : `${Math.floor(s / size)} ${unit}`;
}

function trip(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  return ms < 10 && ms > 0 ? `${short(ms)} ms` : `${Math.round(ms)} ms`;
}

const whole = (n) => n.toLocaleString('en');
const rate = (n) => (n > 0 && n < 0.05 ? '<0.1' : count(n));
const clock = (date) => date.toLocaleTimeString([], { hour12: false });

// ---- what was heard ----

const heard = {
  states: [], // the last minute's, whole
  points: [], // what the plots show: { at, routes: Map(name -> [connections, messages, bytes]), trips }
  changes: undefined,
  version: undefined,
};

function take(state) {
  const last = heard.states.at(-1);
  if (last && last.started !== state.started) heard.states.length = 0; // another process
  const before = heard.states.at(-1);
  heard.states.push(state);
  while (state.uptime_s - heard.states[0].uptime_s > RECENT) heard.states.shift();
  heard.points.push({ at: performance.now() / 1000, date: new Date(), routes: speeds(before, state), trips: trips() });
  while (heard.points[0].at < heard.points.at(-1).at - POINTS - 1) heard.points.shift();
}

function speeds(before, now) {
  const seconds = before && now.uptime_s - before.uptime_s;
  const old = new Map(before ? before.routes.map((route) => [route.name, route]) : []);
  const speed = (route, what) => {
    const then = old.get(route.name);
    if (!(seconds > 0.2)) return null;
    if (!then) return 0;
    return Math.max(0, sum(route[what]) - sum(then[what])) / seconds;
  };
  const own = now.routes.filter((route) => route.name !== NO_ROUTE);
  return new Map(own.map((route) => [route.name, [route.connections, speed(route, 'messages'), speed(route, 'bytes')]]));
}

// The state of so many seconds ago, or the oldest there is.
function ago(seconds) {
  const now = heard.states.at(-1);
  return heard.states.find((state) => now.uptime_s - state.uptime_s <= seconds) || now;
}

// By how much what `of` picks has grown in each of the last seconds.
function perSecond(of, seconds = 10) {
  const [then, now] = [ago(seconds), heard.states.at(-1)];
  const time = now.uptime_s - then.uptime_s;
  return time > 0.2 ? Math.max(0, of(now) - of(then)) / time : 0;
}

const trips = () => ['round_trips', 'handshakes'].map((of) => [quantile(of, 0.5), quantile(of, 0.99)]);

// Milliseconds, of what was measured in the last minute; null where nothing was.
function quantile(of, share) {
  const [then, now] = [ago(RECENT)[of], heard.states.at(-1)[of]];
  const fresh = heard.states.length === 1 ? now.counts : now.counts.map((n, index) => n - then.counts[index]);
  const all = sum(fresh);
  if (all <= 0) return null;
  let below = 0;
  for (const [index, n] of fresh.entries()) {
    if (n && below + n >= share * all) {
      const from = index ? now.bounds_s[index - 1] : 0;
      const to = now.bounds_s[index] ?? from;
      return 1000 * (from + (to - from) * ((share * all - below) / n));
    }
    below += n;
  }
  return null;
}

// ---- elements ----

function element(name, fields = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, fields, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(fields)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function write(to, text) {
  if (to.textContent !== text) to.textContent = text;
}

function show(what, is) {
  if (what.hidden === is) what.hidden = !is;
}

// Rows by key: an element stays as long as what it shows, so that nothing under a finger or with
// the focus is ever exchanged.
function rows(body, items, key, make, fill) {
  const known = (body.known ||= new Map());
  const wanted = new Map(items.map((item) => [key(item), item]));
  for (const [name, row] of known) {
    if (wanted.has(name)) continue;
    row.remove();
    known.delete(name);
  }
  let at = body.firstElementChild;
  for (const [name, item] of wanted) {
    let row = known.get(name);
    if (!row) known.set(name, (row = make(item)));
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
    fill(row, item);
  }
}

// A row of plain cells; `kinds` are their classes.
const cells = (...kinds) => () => element('tr', {}, ...kinds.map((kind) => {
  if (kind === 'bar') return element('td', { className: 'bar' }, element('meter', { min: 0, max: 1, 'aria-hidden': 'true' }));
  if (kind === 'pill') return element('td', {}, element('span', { className: 'pill' }));
  if (kind === 'name') return element('td', {}, element('bdi'));
  return element('td', { className: kind });
}));

function fill(row, values) {
  for (const [index, value] of values.entries()) {
    const cell = row.children[index];
    const inner = cell.firstElementChild;
    if (!inner) write(cell, value);
    else if (inner.localName === 'meter') inner.value = value;
    else {
      write(inner, value);
      if (inner.localName === 'bdi') inner.title = value;
      else inner.dataset.state = value;
    }
  }
}

// ---- tiles ----

const TILES = [
  ['connections', 'Connections', (now) => [whole(sum(now.routes.map((it) => it.connections))), `${whole(now.pending)} pending`]],
  ['messages', 'Messages a second', () => [count(speed('messages')), 'both ways']],
  ['bytes', 'Payload a second', () => [bytes(speed('bytes')), 'both ways']],
  ['trip', 'Round trip', () => {
    const [[half, most]] = heard.points.at(-1).trips;
    return [trip(half), most === null ? 'none in the last minute' : `p99 ${trip(most)}`];
  }],
  ['refused', 'Refused a second', () => [rate(perSecond(refusals)), 'handshakes']],
  ['waiting', 'Waiting', (now) => [bytes(now.backlog), 'for slow readers']],
  ['cpu', 'Processor', () => [`${(100 * perSecond((it) => it.cpu_s, 5)).toFixed(1)} %`, 'of one core']],
  ['memory', 'Memory', (now) => [now.memory === null ? '–' : bytes(now.memory), 'resident']],
];

const refusals = (state) => sum(state.routes.flatMap((it) =>
  Object.entries(it.handshakes).map(([outcome, n]) => (outcome === 'ok' ? 0 : n))));

const speed = (what) => perSecond((state) => sum(state.routes.map((route) => sum(route[what]))), 2);

function makeTiles() {
  for (const [id, name] of TILES) {
    const list = element('dl', {}, element('dt', { textContent: name }), element('dd', { id: `tile-${id}`, textContent: '–' }));
    $('tiles').append(element('div', { className: 'tile' }, list, element('small', { id: `small-${id}` })));
  }
}

function showTiles(now) {
  for (const [id, , of] of TILES) {
    const [value, words] = of(now);
    write($(`tile-${id}`), value);
    write($(`small-${id}`), words);
  }
}

// ---- plots ----

const EDGE = { left: 58, right: 6, top: 6, bottom: 20 };

class Plot {
  constructor(name, words, step, series) {
    Object.assign(this, { name, words, step, series, cursor: null });
    this.note = element('span', { textContent: 'now' });
    this.svg = drawn('svg', { role: 'img', tabindex: '0', id: `plot-${name.toLowerCase().replace(/\W+/g, '-')}` });
    this.legend = element('ul', { className: 'legend' });
    const caption = element('figcaption', {}, name, this.note);
    $('plots').append(element('div', { className: 'card' }, element('figure', {}, caption, this.svg, this.legend)));
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.look(null));
    this.svg.addEventListener('blur', () => this.look(null));
    this.svg.addEventListener('keydown', (event) => this.key(event));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    this.look(nearest((heard.points.at(-1)?.at ?? 0) - POINTS * (1 - share)));
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === 'Escape') this.look(null);
    if (!step || !heard.points.length) return;
    event.preventDefault();
    const last = heard.points.length - 1;
    const from = this.cursor ? heard.points.indexOf(this.cursor) : last;
    this.look(heard.points[Math.max(0, Math.min(last, from + step))]);
  }

  look(point) {
    this.cursor = point;
    this.draw();
  }

  draw() {
    const last = heard.points.at(-1);
    if (!last) return;
    if (!heard.points.includes(this.cursor)) this.cursor = null;
    const shown = this.cursor || last;
    const series = this.series();
    const { width, height } = this.svg.getBoundingClientRect();
    if (width < EDGE.left + 20) return;
    const top = this.step(Math.max(0, ...series.flatMap(({ of }) => heard.points.map(of))));
    const x = (at) => EDGE.left + (1 - (last.at - at) / POINTS) * (width - EDGE.left - EDGE.right);
    const y = (value) => height - EDGE.bottom - (value / top) * (height - EDGE.top - EDGE.bottom);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(share * top)) + 0.5;
      parts.push(drawn('line', { class: 'grid', x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at }));
      parts.push(drawn('text', { x: EDGE.left - 8, y: at + 4, 'text-anchor': 'end' }, this.words(share * top)));
    }
    for (const minutes of width < 420 ? [5, 3, 1, 0] : [5, 4, 3, 2, 1, 0]) {
      const anchor = { 5: 'start', 0: 'end' }[minutes] || 'middle';
      const words = minutes ? `−${minutes} min` : 'now';
      parts.push(drawn('text', { x: x(last.at - 60 * minutes), y: height - 4, 'text-anchor': anchor }, words));
    }
    for (const { colour, of } of series) parts.push(drawn('path', { class: `s${colour}`, d: line(of, x, y) }));
    if (this.cursor) {
      const at = x(this.cursor.at);
      parts.push(drawn('line', { class: 'cursor', x1: at, x2: at, y1: EDGE.top, y2: height - EDGE.bottom }));
    }
    this.svg.replaceChildren(...parts);
    const values = series.map(({ name, colour, of }) => ({ name, colour, text: of(shown) === null ? '–' : this.words(of(shown)) }));
    write(this.note, this.cursor ? clock(this.cursor.date) : 'now');
    rows(this.legend, values, ({ name }) => name,
      () => element('li', {}, element('i'), element('bdi'), element('b')),
      (item, { name, colour, text }) => {
        item.children[0].className = `s${colour}`;
        write(item.children[1], name);
        write(item.children[2], text);
      });
    const told = values.map(({ name, text }) => `${name} ${text}`).join(', ');
    this.svg.setAttribute('aria-label', `${this.name}, ${this.note.textContent}: ${told || 'nothing yet'}. Arrow keys look back.`);
  }
}

function nearest(at) {
  let best = null;
  for (const point of heard.points) if (!best || Math.abs(point.at - at) < Math.abs(best.at - at)) best = point;
  return best;
}

// A gap where nothing was heard stays a gap.
function line(of, x, y) {
  let path = '';
  let pen = null;
  for (const point of heard.points) {
    const value = of(point);
    if (value === null) {
      pen = null;
      continue;
    }
    path += `${pen !== null && point.at - pen < 3.5 ? 'L' : 'M'}${x(point.at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = point.at;
  }
  return path;
}

// The next round number, in steps of 1, 2 and 5.
function round(base) {
  return (most) => {
    let unit = 1;
    while (unit * base <= most) unit *= base;
    const factors = base === 10 ? [1, 2, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
    return Math.max(2, unit * factors.find((factor) => unit * factor >= most));
  };
}

// Who is plotted by name: the busiest, each with its colour for as long as it is.
const coloured = new Map();

function chooseRoutes() {
  const weight = new Map();
  for (const point of heard.points) {
    for (const [name, [connections, messages]] of point.routes) {
      weight.set(name, (weight.get(name) || 0) + connections + (messages || 0));
    }
  }
  const now = heard.points.at(-1).routes;
  const chosen = [...now.keys()].sort((one, other) => weight.get(other) - weight.get(one)).slice(0, COLOURS);
  for (const name of coloured.keys()) if (!chosen.includes(name)) coloured.delete(name);
  for (const name of chosen.sort()) {
    if (coloured.has(name)) continue;
    const taken = [...coloured.values()];
    coloured.set(name, [1, 2, 3, 4, 5].find((colour) => !taken.includes(colour)));
  }
}

function byRoute(index) {
  const pick = (point, name) => (point.routes.has(name) ? point.routes.get(name)[index] : null);
  const series = [...coloured].sort().map(([name, colour]) => ({ name, colour, of: (point) => pick(point, name) }));
  const last = heard.points.at(-1);
  if (last.routes.size > coloured.size) {
    const others = (point) => sum([...point.routes].map(([name, values]) => (coloured.has(name) ? 0 : values[index] || 0)));
    series.push({ name: 'all others', colour: 6, of: others });
  }
  return series;
}

const plots = [];

function makePlots() {
  plots.push(
    new Plot('Connections', count, round(10), () => byRoute(0)),
    new Plot('Messages a second', count, round(10), () => byRoute(1)),
    new Plot('Payload a second', bytes, round(1024), () => byRoute(2)),
    new Plot('Heartbeat round trip', trip, round(10), () => [
      { name: 'half are under', colour: 1, of: (point) => point.trips[0][0] },
      { name: '99 % are under', colour: 2, of: (point) => point.trips[0][1] },
    ]),
  );
}

// ---- tables ----

function showHandshakes(now) {
  const all = new Map();
  for (const route of now.routes) {
    for (const [outcome, n] of Object.entries(route.handshakes)) all.set(outcome, (all.get(outcome) || 0) + n);
  }
  const most = Math.max(1, ...all.values());
  const items = [...all].sort(([one, n], [other, m]) => (other === 'ok') - (one === 'ok') || m - n);
  const of = (outcome) => (state) => sum(state.routes.map((route) => route.handshakes[outcome] || 0));
  table('handshakes', items, ([outcome]) => outcome, cells('', 'bar', 'number', 'number'), (row, [outcome, n]) => {
    row.classList.toggle('trouble', outcome !== 'ok' && perSecond(of(outcome)) > 0);
    fill(row, [outcome, n / most, rate(perSecond(of(outcome))), whole(n)]);
  });
}

function showEndings(now) {
  const gather = (state) => {
    const all = new Map();
    for (const route of state.routes) {
      for (const [reason, by, n] of route.endings) all.set(`${reason} ${by}`, (all.get(`${reason} ${by}`) || 0) + n);
    }
    return all;
  };
  const [all, then] = [gather(now), gather(ago(10))];
  const seconds = now.uptime_s - ago(10).uptime_s;
  const most = Math.max(1, ...all.values());
  const items = [...all].sort(([, n], [, m]) => m - n);
  table('endings', items, ([name]) => name, cells('', '', 'bar', 'number', 'number'), (row, [name, n]) => {
    const [reason, by] = name.split(' ');
    const speed = seconds > 0.2 ? Math.max(0, n - (then.get(name) || 0)) / seconds : 0;
    fill(row, [reason, by, n / most, rate(speed), whole(n)]);
  });
}

function showEndpoints(now) {
  const items = now.upstreams.flatMap(({ name, endpoints }) => {
    const all = Math.max(1, sum(endpoints.map((it) => it.connections)));
    return endpoints.map((it) => ({ upstream: name, share: it.connections / all, ...it }));
  });
  const key = ({ upstream, address }) => JSON.stringify([upstream, address]);
  table('endpoints', items, key, cells('name', 'name', 'pill', 'bar', 'number'), (row, it) => {
    const marks = [it.backup && 'backup', it.full && 'full'].filter(Boolean).map((mark) => ` · ${mark}`);
    fill(row, [it.upstream, it.address + marks.join(''), it.standing, it.share, whole(it.connections)]);
  });
}

function showRoutes(now) {
  const items = now.routes.filter((route) => route.name !== NO_ROUTE);
  const each = (name, what, index) => perSecond((state) => state.routes.find((route) => route.name === name)?.[what][index] ?? 0, 2);
  table('routes', items, ({ name }) => name, cells('name', 'number', 'number', 'number'), (row, { name, connections }) => {
    const pair = (what, words) => [0, 1].map((index) => words(each(name, what, index))).join(' · ');
    fill(row, [name, whole(connections), `${pair('messages', rate)} /s`, `${pair('bytes', bytes)} /s`]);
  });
}

function table(id, items, key, make, fillRow) {
  rows($(id).tBodies[0], items, key, make, fillRow);
  const none = $(id).parentElement.parentElement.querySelector('.none');
  if (none) show(none, !items.length);
  show($(id), items.length > 0);
}

const FACTS = [
  ['Version', () => heard.version],
  ['Configuration', (now) => `generation ${now.config.generation}`],
  ['Reloads', ({ config: { reloads } }) => `${whole(reloads.ok)} ok, ${whole(reloads.failed)} failed`, ({ config }) => config.failed !== null],
  ['Handshake time', () => `${trip(heard.points.at(-1).trips[1][0])}, p99 ${trip(heard.points.at(-1).trips[1][1])}`],
  ['Open files', ({ files: [open, most] }) => `${open === null ? '–' : whole(open)} of ${most === null ? 'no limit' : whole(most)}`,
    ({ files: [open, most] }) => most && open / most > 0.8],
  ['Accept errors', (now) => whole(now.accept_errors)],
  ['TLS failures', (now) => whole(now.tls_failures)],
  ['Messages dropped', (now) => whole(sum(now.routes.map((route) => route.dropped)))],
  ['Log lines lost', (now) => whole(now.lost_lines), (now) => now.lost_lines > 0],
];

function showFacts(now) {
  rows($('facts'), FACTS, ([name]) => name,
    ([name]) => element('div', {}, element('dt', { textContent: name }), element('dd')),
    (row, [, of, isTrouble]) => {
      row.classList.toggle('trouble', Boolean(isTrouble?.(now)));
      write(row.lastElementChild, of(now) ?? '–');
    });
}

// ---- connections, and what can be done about them ----

const LABELS = ['Subject', 'Client', 'Route', 'Endpoint', 'Traffic', 'Round trip', 'Waiting', 'Age', ''];
const NONE = {
  loudest: 'No connection has sent or received anything.',
  slowest: 'No round trip was measured yet.',
  fullest: 'Nothing waits for a slow reader.',
};
let pointed = false;

function makeTop() {
  $('top').addEventListener('pointerenter', (event) => { pointed = event.pointerType === 'mouse'; });
  $('top').addEventListener('pointerleave', () => { pointed = false; });
  $('order').addEventListener('change', () => render());
}

function topRow(it) {
  const act = (text, words, ask) => element('button', { type: 'button', textContent: text, 'aria-label': words, onclick: ask });
  const actions = element('td', { className: 'actions' }, act('Close…', `Close connection ${it.id}`, () => askClose(it)));
  if (it.subject !== null) actions.append(act('Kick…', `Kick ${it.subject}`, () => askKick(it)));
  const row = cells('name', 'name', 'name', 'name', 'number', 'number', 'number', 'number')();
  row.append(actions);
  row.dataset.id = it.id;
  for (const [index, label] of LABELS.entries()) if (label) row.children[index].dataset.label = label;
  return row;
}

function fillTop(row, it) {
  fill(row, [
    it.subject ?? '–', it.client, it.route, it.endpoint, `${bytes(it.bytes_per_s)}/s`,
    trip(it.rtt_ms), it.waiting ? bytes(it.waiting) : '–', span(it.age_s),
  ]);
  for (const button of row.lastElementChild.children) show(button, heard.changes !== 'off');
}

function showTop(now) {
  const order = document.querySelector('#order input:checked').value;
  const list = now.top[order];
  const body = $('top').tBodies[0];
  const held = order === body.order && (pointed || body.contains(document.activeElement));
  body.order = order;
  if (held) {
    // What somebody is about to press stays where it is.
    const fresh = new Map(Object.values(now.top).flat().map((it) => [it.id, it]));
    for (const [id, row] of body.known || []) if (fresh.has(id)) fillTop(row, fresh.get(id));
  } else {
    rows(body, list, ({ id }) => id, topRow, fillTop);
  }
  show($('held'), held);
  const shown = body.childElementCount > 0;
  show($('top'), shown);
  show($('top-none'), !shown);
  write($('top-none'), NONE[order]);
}

let asked;

function askClose(it) {
  ask({
    title: `Close the connection ${it.id}?`,
    words: `${it.subject === null ? 'A client' : it.subject} at ${it.client}, on route ${it.route}. It may come back at once.`,
    verb: 'Close it',
    ban: false,
    request: (query) => ['DELETE', `api/v1/connections/${encodeURIComponent(it.id)}?${query}`],
    done: () => `Closed ${it.id}.`,
  });
}

function askKick(it) {
  ask({
    title: `Kick ${it.subject}?`,
    words: 'Every connection of this subject is closed, on all routes.',
    verb: 'Kick',
    ban: true,
    request: (query) => {
      query.set('subject', it.subject);
      return ['POST', `api/v1/kick?${query}`];
    },
    done: ({ kicked }) => `Kicked ${it.subject}: ${kicked === 1 ? 'one connection' : `${kicked} connections`}.`,
  });
}

function ask(about) {
  asked = about;
  write($('ask-title'), about.title);
  write($('ask-words'), about.words);
  write($('ask-do'), about.verb);
  write($('ask-fault'), '');
  show($('ask-ban'), about.ban);
  wantToken(heard.changes === 'token' && !token());
  $('ask').showModal();
  ($('ask-token').hidden ? $('ask-cancel') : $('ask-form').elements.token).focus();
}

function wantToken(is) {
  show($('ask-token'), is);
  $('ask-form').elements.token.required = is;
}

async function doAsked(event) {
  event.preventDefault();
  const { token: shown, ban, code, reason } = $('ask-form').elements;
  const query = new URLSearchParams({ code: code.value });
  if (reason.value) query.set('reason', reason.value);
  if (asked.ban && ban.value) query.set('for', ban.value);
  const [method, url] = asked.request(query);
  if (!$('ask-token').hidden) keepToken(shown.value.trim());
  $('ask-do').disabled = true;
  try {
    const answer = await fetch(url, { method, headers: credentials() });
    const said = await answer.json().catch(() => ({}));
    if (answer.ok) {
      write($('done'), asked.done(said));
      $('ask').close();
      $('connections').focus(); // the row it was asked from may go now
    } else {
      if (answer.status === 401) {
        keepToken('');
        wantToken(true);
        $('ask-form').elements.token.select();
      }
      write($('ask-fault'), said.detail || `It was refused: ${answer.status}.`);
    }
  } catch (error) {
    write($('ask-fault'), `It was not sent: ${error.message}.`);
  } finally {
    $('ask-do').disabled = false;
  }
}

// ---- the token ----

const token = () => sessionStorage.getItem('token') || '';

function keepToken(text) {
  if (text) sessionStorage.setItem('token', text);
  else sessionStorage.removeItem('token');
  $('ask-form').elements.token.value = '';
  show($('forget'), Boolean(text));
}

const credentials = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

// ---- the stream ----

let lastHeard = null;

async function listen() {
  const abort = new AbortController();
  let silence;
  const hush = () => {
    clearTimeout(silence);
    silence = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  hush();
  try {
    const answer = await fetch('api/v1/events', { headers: credentials(), signal: abort.signal, cache: 'no-store' });
    if (answer.status === 401) return await unlocked(await answer.json().catch(() => ({})));
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || `status ${answer.status}`);
    show($('unlock'), false);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return undefined;
      hush();
      const events = (text + value).split('\n\n');
      text = events.pop();
      events.forEach(hear);
    }
  } finally {
    clearTimeout(silence);
    abort.abort();
  }
}

function hear(text) {
  const field = (name) => text.split('\n').find((one) => one.startsWith(`${name}: `))?.slice(name.length + 2);
  const data = JSON.parse(field('data'));
  if (field('event') === 'hello') {
    // Another version has another page.
    if (heard.version && heard.version !== data.version) location.reload();
    Object.assign(heard, data);
    show($('off'), data.changes === 'off');
  } else if (field('event') === 'state') {
    lastHeard = new Date();
    take(data);
    show($('lost'), false);
    setState(data.draining ? 'draining' : 'live', data.draining ? 'draining' : 'live');
    requestAnimationFrame(render);
  }
}

// Waits until somebody shows a token.
function unlocked({ detail }) {
  write($('read-fault'), token() ? detail || 'It was refused.' : '');
  keepToken('');
  show($('unlock'), true);
  setState('waiting', 'locked');
  return new Promise((resolve) => {
    $('unlock').onsubmit = (event) => {
      event.preventDefault();
      keepToken($('read-token').value.trim());
      $('read-token').value = '';
      resolve('again');
    };
  });
}

function setState(state, words) {
  $('state').dataset.state = state;
  write($('state'), words);
}

function lose(why) {
  setState('lost', 'connection lost');
  show($('lost'), true);
  const since = lastHeard ? `Nothing was heard since ${clock(lastHeard)}: what is shown is old.` : 'Nothing was heard yet.';
  write($('lost'), `The connection to wsgate is lost. ${since} Trying again by itself. (${why})`);
}

async function run() {
  let pause = 500;
  for (;;) {
    const before = lastHeard;
    let why = 'it was closed';
    try {
      if (await listen() === 'again') continue;
    } catch (error) {
      why = error.name === 'AbortError' ? 'it fell silent' : error.message;
    }
    if (lastHeard !== before) pause = 500;
    lose(why);
    await sleep(pause * (0.75 + Math.random() / 2));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

// ---- all of it ----

function render() {
  const now = heard.states.at(-1);
  if (!now) return;
  const left = sum(now.routes.map((route) => route.connections));
  show($('draining'), now.draining);
  write($('draining'), `Draining: nothing new is let in; ${left === 1 ? 'one connection is' : `${whole(left)} connections are`} left.`);
  show($('failed'), now.config.failed !== null);
  write($('diagnostics'), now.config.failed ?? '');
  write($('since'), `up ${span(now.uptime_s)} · generation ${now.config.generation}`);
  chooseRoutes();
  showTiles(now);
  plots.forEach((plot) => plot.draw());
  showTop(now);
  showHandshakes(now);
  showEndings(now);
  showEndpoints(now);
  showRoutes(now);
  showFacts(now);
}

write($('where'), location.host);
document.title = `wsgate · ${location.host}`;
makeTiles();
makePlots();
makeTop();
keepToken(token());
$('forget').addEventListener('click', () => keepToken(''));
$('ask-form').addEventListener('submit', doAsked);
$('ask-cancel').addEventListener('click', () => $('ask').close());
new ResizeObserver(() => plots.forEach((plot) => plot.draw())).observe($('plots'));
run();
