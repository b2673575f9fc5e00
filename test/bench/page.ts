import { mkdir, writeFile } from 'node:fs/promises';
import { type ClientRequest, request } from 'node:http';
import { join } from 'node:path';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { digestOf } from '../../src/oci/digest.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { OCI_CONFIG, OCI_LAYER } from '../../src/oci/media-types.ts';
import { BROWSER, Browser, type WatchedPage } from '../support/browser.ts';
import { Entrepot } from '../support/entrepot.ts';
import { fillSqlite } from '../support/large-sqlite.ts';
import { hasPrograms, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { DrippingUpstream } from './support/dripping-upstream.ts';
import { LOOP_DELAY, LoopWatch, worstDelay } from './support/loop-delay.ts';
import { NotMeasured } from './support/sections.ts';
import { median, spread, table } from './support/table.ts';

const IMAGES = 100_000;
const REPOSITORIES = 1_000;
/** Different configs, each of a hundred images; their files are there. */
const CONFIGS = 1_000;
const TENANTS = 10_000;
const FILLS = 1_000;
const LAYER_BYTES = 30_000_000;
/** Of what is being downloaded: together they have to fit on the disk, and none may end. */
const SLOW_BYTES = 2_000_000;
const SLOW_BYTES_PER_S = 1_000;
const UPSTREAM = 'up.example';
const SLOW = 'slow.example';
const ROUNDS = 5;

/** What is in the document at most: a page of rows, and what is around it. */
const MAX_ELEMENTS = 2_500;

const SCREENS = ['overview', 'now', 'why', 'images', 'upstreams', 'tenants', 'air-gap', 'upkeep', 'activity'];

/** The administration API, and the page in a browser, on a large store, while nodes wait for many downloads. */
export async function largePage(): Promise<void> {
  const folder = await makeTempFolder('page');
  const upstream = await DrippingUpstream.start(SLOW_BYTES_PER_S, SLOW_BYTES);
  const pulls: ClientRequest[] = [];
  let entrepot: Entrepot | undefined;
  try {
    await makeStore(join(folder, 'store'));
    entrepot = await Entrepot.start(
      {
        upstreams: {
          [UPSTREAM]: { url: 'http://127.0.0.1:9', freshFor: 'forever' },
          [SLOW]: { url: upstream.url, connectionsPerBlob: 1 },
        },
        hosted: { prefixes: ['team'], anonymous: 'pull' },
        pulls: { maxConnections: FILLS },
        upkeep: { gcInterval: false, scrubInterval: false },
      },
      { folder },
    );
    const idleRss = entrepot.rss();
    for (let at = 0; at < FILLS; at += 1) pulls.push(pull(entrepot, at));
    await until('all downloads', 120_000, async () => upstream.sending === FILLS);
    console.log(await requests(entrepot));
    const hasBrowser = hasPrograms(BROWSER);
    if (hasBrowser) console.log(await inBrowser(entrepot));
    const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
    const memory = [
      ['after the start', mib(idleRss)],
      ['at most', mib(entrepot.peakRss())],
    ];
    console.log(table('Memory of the server', ['', ''], memory));
    if (!hasBrowser) throw new NotMeasured(`the page itself needs ${BROWSER}`);
  } finally {
    for (const each of pulls) each.destroy();
    await entrepot?.stop();
    await upstream.stop();
    await removeFolder(folder);
  }
}

/** Images with a layer that all have, a config that some have, and layers of their own; tenants with a login each. */
export async function makeStore(path: string): Promise<void> {
  const configs = Array.from({ length: CONFIGS }, (_, at) =>
    Buffer.from(JSON.stringify({ os: 'linux', architecture: at % 2 === 0 ? 'amd64' : 'arm64', at })),
  );
  const layer = (name: string): Descriptor => ({
    mediaType: OCI_LAYER,
    digest: digestOf(Buffer.from(name)),
    size: LAYER_BYTES,
  });
  const described = configs.map(bytes => ({
    mediaType: OCI_CONFIG,
    digest: digestOf(bytes),
    size: bytes.length,
  }));
  await fillSqlite(path, {
    repositories: Array.from({ length: REPOSITORIES }, (_, number) =>
      number % 10 === 0
        ? { upstream: '', name: `team/app${number}` }
        : { upstream: UPSTREAM, name: `app${number}` },
    ),
    images: IMAGES,
    blobsOf: image => {
      const config = described[image % CONFIGS];
      if (config === undefined) throw new Error('there are as many as that');
      return [config, layer('base'), layer(`${image} 1`), layer(`${image} 2`)];
    },
  });
  for (const [at, { digest }] of described.entries()) {
    const hex = digest.slice('sha256:'.length);
    await mkdir(join(path, 'blobs', 'sha256', hex.slice(0, 2)), { recursive: true });
    await writeFile(join(path, 'blobs', 'sha256', hex.slice(0, 2), hex), configs[at] ?? '');
  }
  const database = new Database(join(path, 'index.db'));
  const tenant = database.prepare('INSERT INTO known_tenants (name) VALUES (?)');
  const login = database.prepare('INSERT INTO issued_credentials VALUES (?, ?, ?, ?, 0, ?, NULL)');
  database.transaction(() => {
    for (let at = 0; at < TENANTS; at += 1) {
      const id = digestOf(Buffer.from(`login ${at}`)).slice('sha256:'.length);
      tenant.run(`tenant-${at}`);
      login.run(id, `tenant-${at}`, `user-${at}`, 'registry.example', Date.now());
    }
  })();
  database.close();
}

/** A node that waits for a layer. */
function pull({ url }: Entrepot, at: number): ClientRequest {
  const digest = digestOf(Buffer.from(`slow ${at}`));
  const sent = request(`${url}/v2/${SLOW}/library/app${at}/blobs/${digest}`, response => response.resume());
  // It is broken off in the end.
  sent.on('error', () => {});
  return sent.end();
}

interface Page {
  readonly entries: readonly { readonly image?: string; readonly name?: string; readonly id?: string }[];
  readonly next: string | null;
  readonly total?: number;
  readonly partial?: boolean;
}

/** Asks for each list as scripts and the page do. */
async function requests(entrepot: Entrepot): Promise<string> {
  const loop = new LoopWatch(entrepot);
  const rows: string[][] = [];
  const ask = async (
    path: string,
  ): Promise<{ readonly page: Page; readonly ms: number; readonly bytes: number }> => {
    const startedMs = performance.now();
    const response = await fetch(`${entrepot.ops}/admin/v1/${path}`);
    const text = await response.text();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
    return { page: JSON.parse(text), ms: performance.now() - startedMs, bytes: text.length };
  };
  const row = async (what: string, paths: readonly string[], check: (page: Page) => boolean = () => true) => {
    await loop.read();
    const times: number[] = [];
    const sizes: number[] = [];
    const cpu = entrepot.cpuSeconds();
    let entries = 0;
    for (const path of paths) {
      const { page, ms, bytes } = await ask(path);
      if (!check(page)) throw new Error(`${path}: not what is expected`);
      times.push(ms);
      sizes.push(bytes);
      entries += page.entries?.length ?? 0;
    }
    const cpuMs = ((entrepot.cpuSeconds() - cpu) * 1000) / paths.length;
    rows.push([
      what,
      spread(times, 1),
      cpuMs.toFixed(0),
      String(Math.round(entries / paths.length)),
      (median(sizes) / 1000).toFixed(1),
      worstDelay([await loop.read()], 1),
    ]);
  };
  const often = (path: string, times = ROUNDS) => Array<string>(times).fill(path);
  const walk = async (what: string, path: string, total: number, step: number) => {
    let after: string | null = '';
    let seen = 0;
    const cursors: string[] = [];
    while (after !== null) {
      const { page }: { page: Page } = await ask(
        `${path}&limit=${step}${after === '' ? '' : `&after=${after}`}`,
      );
      seen += page.entries.length;
      after = page.next;
      if (after !== null) cursors.push(after);
    }
    if (seen !== total) throw new Error(`${path}: ${seen} of ${total}`);
    const deep = cursors.slice(-ROUNDS).map(cursor => `${path}&limit=50&after=${cursor}`);
    await row(what, deep);
  };

  await row('overview', often('overview'));
  await row('status', often('status'));
  await row('queue', often('queue'));
  await row('fills, 50', often('fills?limit=50'), page => page.total === FILLS && page.entries.length === 50);
  await row('fills, 500', often('fills?limit=500'), page => page.entries.length === 500);
  await walk('fills, last pages', 'fills?', FILLS, 500);
  await row('images, 50', often('images?limit=50'), page => page.entries.length === 50);
  await row('images, 500', often('images?limit=500'), page => page.entries.length === 500);
  await walk('images, last pages', 'images?', IMAGES, 500);
  await row('images, one of them', often('images?limit=50&q=:v99999'));
  await row('images, nothing found', often('images?limit=50&q=nothing'));
  await row('images, pushed', often('images?limit=50&source=hosted'), page => page.entries.length === 50);
  await row('images, pinned: none', often('images?limit=50&pinned=true'));
  await row(
    'images, of a platform',
    often('images?limit=50&platform=linux/arm64'),
    page => page.entries.length === 50,
  );
  await row('images, damaged: none', often('images?limit=50&damaged=true'));
  await row('images, incomplete: none', often('images?limit=50&incomplete=true'));
  await row('images by use, the first time', ['images?limit=50&sort=used']);
  const startedMs = performance.now();
  let isPartial = true;
  while (isPartial) isPartial = (await ask('images?limit=50&sort=used')).page.partial === true;
  rows.push([
    '… until all are in order',
    `${((performance.now() - startedMs) / 1000).toFixed(0)} s`,
    '',
    '',
    '',
    worstDelay([await loop.read()], 1),
  ]);
  await row('images by use', often('images?limit=50&sort=used'), page => page.partial === false);
  await row('images by size', often('images?limit=50&sort=own'), page => page.partial === false);
  await row('inspect', often(`inspect?reference=${UPSTREAM}/app999:v99999`));
  await row('tenants, 50', often('tenants?limit=50'), page => page.entries.length === 50);
  await row('tenants, 500', often('tenants?limit=500'), page => page.entries.length === 500);
  await walk('tenants, last pages', 'tenants?', TENANTS, 500);
  await row(
    'tenants, one of them',
    often('tenants?limit=50&q=tenant-9999'),
    page => page.entries.length === 1,
  );
  await row('refusals', often('refusals?limit=50'));
  await row('backoffs', often('backoffs?limit=50'));
  await row('uploads', often('uploads?limit=50'));
  await row('prepull', often('prepull?limit=50'));
  await row('upstreams', often('upstreams'));
  await row('upkeep', often('upkeep'));
  await row('audit', often('audit?limit=50'));
  const heading = `/admin/v1 with ${IMAGES} images, ${TENANTS} tenants and ${FILLS} downloads`;
  return table(heading, ['', 'ms', 'CPU ms', 'entries', 'kB', LOOP_DELAY], rows);
}

/** Each screen: until something is seen, until its content is there, and how much of it is in the document. */
async function inBrowser(entrepot: Entrepot): Promise<string> {
  const browser = await Browser.start();
  const loop = new LoopWatch(entrepot);
  const rows: string[][] = [];
  try {
    for (const screen of SCREENS) {
      const paints: number[] = [];
      const contents: number[] = [];
      let elements = 0;
      let frames = 0;
      await loop.read();
      for (let round = 0; round < ROUNDS; round += 1) {
        const watched = await browser.open();
        const { paintMs, contentMs } = await shown(watched, `${entrepot.ops}/ui/#/${screen}`);
        paints.push(paintMs);
        contents.push(contentMs);
        // While changes come in.
        await watched.page.waitForTimeout(2_000);
        elements = await watched.page.evaluate('document.getElementsByTagName("*").length');
        frames = Math.max(frames, await watched.page.evaluate(SCROLL));
        await watched.close();
      }
      if (elements > MAX_ELEMENTS) throw new Error(`${screen}: ${elements} elements`);
      rows.push([
        screen,
        spread(paints),
        spread(contents),
        String(elements),
        frames.toFixed(0),
        worstDelay([await loop.read()], 1),
      ]);
    }
  } finally {
    await browser.close();
  }
  return table(
    'The page on it, in Chromium',
    ['', 'first paint ms', 'content ms', 'elements', 'longest frame ms', LOOP_DELAY],
    rows,
  );
}

async function shown(
  { page }: WatchedPage,
  url: string,
): Promise<{ readonly paintMs: number; readonly contentMs: number }> {
  await page.goto(url);
  await page.locator('main .card, main .figures').first().waitFor();
  while ((await page.getByText('Loading…').count()) > 0) await page.waitForTimeout(10);
  return page.evaluate(
    '({ paintMs: performance.getEntriesByName("first-contentful-paint")[0].startTime, contentMs: performance.now() })',
  );
}

/** Scrolls down in steps; how long the slowest of them took to be shown. */
const SCROLL = `(async () => {
  let longest = 0;
  let last = await new Promise(requestAnimationFrame);
  for (let y = 0; y < document.documentElement.scrollHeight; y += 200) {
    scrollTo(0, y);
    const now = await new Promise(requestAnimationFrame);
    longest = Math.max(longest, now - last);
    last = now;
  }
  return longest;
})()`;
