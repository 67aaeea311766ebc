// A page in a Chromium that is running already, by its DevTools protocol. What the page complains of
// is kept in `faults`; `isDue` names entries of the browser's log that are to be expected.
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const WebSocket = require('ws');

class Page {
  constructor(devtools, isDue = () => false) {
    this.faults = [];
    this.isDue = isDue;
    this.asked = new Map();
    this.browser = new WebSocket(devtools, { maxPayload: 64 << 20 });
    this.browser.on('message', (data) => this.hears(JSON.parse(data)));
  }

  hears({ id, method, params, result, error }) {
    if (id) {
      const { resolve, reject } = this.asked.get(id);
      this.asked.delete(id);
      if (error) reject(new Error(error.message));
      else resolve(result);
    } else if (
      method === 'Runtime.exceptionThrown' ||
      (method === 'Runtime.consoleAPICalled' && ['error', 'assert', 'warning'].includes(params.type)) ||
      (method === 'Log.entryAdded' && params.entry.level !== 'verbose' && !this.isDue(params.entry))
    ) {
      this.faults.push(JSON.stringify(params));
    }
  }

  ask(method, params = {}) {
    const id = (this.last = (this.last || 0) + 1);
    this.browser.send(JSON.stringify({ id, method, params, sessionId: this.session }));
    return new Promise((resolve, reject) => this.asked.set(id, { resolve, reject }));
  }

  async open(url) {
    await once(this.browser, 'open');
    const { targetId } = await this.ask('Target.createTarget', { url: 'about:blank' });
    this.session = (await this.ask('Target.attachToTarget', { targetId, flatten: true })).sessionId;
    for (const domain of ['Page', 'Runtime', 'Log']) await this.ask(`${domain}.enable`);
    const { errorText } = await this.ask('Page.navigate', { url });
    assert(!errorText, `${url}: ${errorText}`);
  }

  async evaluate(expression) {
    const answer = await this.ask('Runtime.evaluate', { expression, returnByValue: true });
    assert(!answer.exceptionDetails, `${expression}: ${JSON.stringify(answer.exceptionDetails)}`);
    return answer.result.value;
  }

  // By the keyboard, to prove that it can be.
  async press(key, code) {
    const event = { key, code: key, windowsVirtualKeyCode: code };
    const text = key === 'Enter' ? '\r' : undefined;
    await this.ask('Input.dispatchKeyEvent', { type: 'keyDown', text, ...event });
    await this.ask('Input.dispatchKeyEvent', { type: 'keyUp', ...event });
  }

  // Ends the browser; a page that complained fails.
  async close() {
    assert.deepStrictEqual(this.faults, []);
    this.session = undefined;
    await this.ask('Browser.close');
  }

  // Runs to the end of the process.
  run(main) {
    main().then(() => process.exit(0), (error) => {
      console.error(error, this.faults);
      process.exit(1);
    });
  }
}

module.exports = { Page };
