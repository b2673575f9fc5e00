// Debian's Chromium, driven by Playwright: pages in which everything that should never happen is written down.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type Browser as Chromium, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import type { Login } from './tenants.ts';

/** The program that it needs. */
export const BROWSER = 'chromium';

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** A name that this browser takes for 127.0.0.1, as if its owner had pointed it there. */
export const FOREIGN_NAME = 'foreign.example';

/** Its source, which runs in the page like anything typed into its console, so that its policy allows it. */
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The ring around the focused element: at least 2 pixels wide, on the screen, and with a contrast of 3 to what is behind it. */
const FOCUSED = `(() => {
  const focused = document.activeElement;
  if (focused === null || focused === document.body) return undefined;
  const name = (focused.getAttribute('aria-label') ?? focused.textContent).trim();
  const part = value => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const groundOf = element => {
    const ground = element === null ? [255, 255, 255] : colour(getComputedStyle(element).backgroundColor);
    return ground[3] === 0 ? groundOf(element.parentElement) : ground;
  };
  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(focused);
  const [less, more] = [light(colour(outlineColor)), light(groundOf(focused.parentElement))].sort((a, b) => a - b);
  const { top, bottom, width } = focused.getBoundingClientRect();
  const fault =
    outlineStyle === 'none' || parseFloat(outlineWidth) < 2 ? 'it has no ring'
    : (more + 0.05) / (less + 0.05) < 3 ? 'its ring is hardly seen: ' + outlineColor
    : width === 0 || top < -1 || bottom > innerHeight + 1 ? 'it is not on the screen'
    : undefined;
  return { name, fault };
})()`;

/** A browser with a profile of its own, which is gone when it is closed. */
export class Browser {
  readonly #chromium: Chromium;

  private constructor(started: Chromium) {
    this.#chromium = started;
  }

  static async start(): Promise<Browser> {
    const rules = `--host-resolver-rules=MAP ${FOREIGN_NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`;
    const args = [...ARGS, rules];
    return new Browser(
      await chromium.launch({ executablePath: `/usr/bin/${BROWSER}`, headless: true, args }),
    );
  }

  /** A new window, in a context of its own: with no storage and no logins of others. */
  async open(options: BrowserContextOptions = {}): Promise<WatchedPage> {
    const context = await this.#chromium.newContext(options);
    return new WatchedPage(await context.newPage());
  }

  close(): Promise<void> {
    return this.#chromium.close();
  }
}

/** A page with its faults: errors in the console, uncaught ones, dialogs, and requests that leave its origin. */
export class WatchedPage {
  readonly page: Page;
  readonly faults: string[] = [];
  /** Of all requests. */
  readonly urls: string[] = [];

  constructor(page: Page) {
    this.page = page;
    page.on('console', message => {
      if (message.type() === 'error') this.faults.push(`console: ${message.text()}`);
    });
    page.on('pageerror', error => this.faults.push(`uncaught: ${error.message}`));
    page.on('dialog', dialog => {
      this.faults.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('request', request => {
      const url = new URL(request.url());
      this.urls.push(url.href);
      const origin = page.url().startsWith('http') ? new URL(page.url()).origin : url.origin;
      if (url.origin !== origin) this.faults.push(`request: ${url.href}`);
    });
  }

  /** What axe finds wrong for people who see, hear or use the page differently; and that it looked at all. */
  async violations(): Promise<readonly string[]> {
    await this.page.evaluate(`${AXE};0`);
    const found: { readonly passes: readonly object[]; readonly violations: readonly Violation[] } =
      await this.page.evaluate('axe.run()');
    if (found.passes.length < 10) throw new Error('axe found hardly anything to check');
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  }

  /** What has the focus: its name, and why nobody would see that it has it; `undefined` if nothing has it. */
  focused(): Promise<{ readonly name: string; readonly fault: string | undefined } | undefined> {
    return this.page.evaluate(FOCUSED);
  }

  /** How far it can be scrolled to the side: more than 0 if something is too wide. */
  overflow(): Promise<number> {
    return this.page.evaluate('document.documentElement.scrollWidth - innerWidth');
  }

  close(): Promise<void> {
    return this.page.context().close();
  }
}

/** The dialog in which a browser asks for a name and a password, as somebody answers it. */
export class LoginDialog {
  /** How often it was shown. */
  shown = 0;
  /** What is answered from now on, one after the other; the dialog is cancelled when there is nothing left. */
  readonly answers: Login[] = [];

  /** Of all that `page` asks for. */
  static async of(page: Page): Promise<LoginDialog> {
    const dialog = new LoginDialog();
    const devTools = await page.context().newCDPSession(page);
    devTools.on('Fetch.requestPaused', ({ requestId }) => {
      // Not of a page that was closed meanwhile.
      devTools.send('Fetch.continueRequest', { requestId }).catch(() => {});
    });
    devTools.on('Fetch.authRequired', ({ requestId }) => {
      dialog.shown += 1;
      const login = dialog.answers.shift();
      const authChallengeResponse =
        login === undefined
          ? { response: 'CancelAuth' as const }
          : { response: 'ProvideCredentials' as const, username: login[0], password: login[1] };
      devTools.send('Fetch.continueWithAuth', { requestId, authChallengeResponse }).catch(() => {});
    });
    await devTools.send('Fetch.enable', { handleAuthRequests: true });
    return dialog;
  }
}

interface Violation {
  readonly id: string;
  readonly nodes: readonly { readonly html: string }[];
}
