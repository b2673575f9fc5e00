// The operator's page in a real browser, on a real server that nodes pull from meanwhile.
import { createServer, type Server } from 'node:http';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Page, Route } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { AuditDocument } from '../../src/admin/documents/audit.ts';
import type { FillsDocument } from '../../src/admin/documents/fills.ts';
import type { ImagesDocument } from '../../src/admin/documents/images.ts';
import type { ExplainDocument } from '../../src/admin/documents/explain.ts';
import type { OverviewDocument } from '../../src/admin/documents/overview.ts';
import type { TenantsPage } from '../../src/admin/documents/tenants.ts';
import type { UpkeepDocument } from '../../src/admin/documents/upkeep.ts';
import type { UpstreamsDocument } from '../../src/admin/documents/upstreams.ts';
import { PRESETS } from '../../src/config/presets.ts';
import { Receiver } from '../../src/events/receiver.fixture.ts';
import { FakeApiServer } from '../../src/tenants/kubernetes/fake-api-server.fixture.ts';
import { bytesText, numberText } from '../../src/ui/format.ts';
import { BROWSER, Browser, FOREIGN_NAME, LoginDialog, type WatchedPage } from '../support/browser.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Latch } from '../support/latch.ts';
import { hasPrograms, run } from '../support/programs.ts';
import { beginUpload, pushImage, sendBytes } from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { getAs, type Login, writeSecret } from '../support/tenants.ts';

const UPSTREAM = 'up.example';
const TEAM: Login = ['robot', 'its-password'];
const SCREENS = ['overview', 'now', 'why', 'images', 'upstreams', 'tenants', 'air-gap', 'upkeep', 'activity'];
/** What a browser would run if the page took somebody's text for markup. */
const MARKUP = '<img src=x onerror=alert(1)>';

/** With WRITE_SCREENS, the folder in which the pictures are made anew; else there is no such test. */
const PICTURES =
  process.env['WRITE_SCREENS'] === undefined
    ? []
    : [fileURLToPath(new URL('../../docs/screens/', import.meta.url))];

const LAYER_BYTES = 3_000_000;
const layers = ['a', 'b', 'c'].map(seed => randomBlob(LAYER_BYTES, `browser ${seed}`));
const images = layers.map(layer =>
  imageOf([layer], { annotations: { 'org.opencontainers.image.title': MARKUP } }),
);

describe.skipIf(!hasPrograms(BROWSER))('the page in Chromium', () => {
  let folder: string;
  let upstream: FakeUpstream;
  let receiver: Receiver;
  let entrepot: Entrepot;
  let browser: Browser;
  let watched: WatchedPage;
  let page: Page;

  beforeAll(async () => {
    folder = await makeTempFolder('browser');
    receiver = await Receiver.start();
    upstream = await FakeUpstream.start({
      auth: {
        scheme: 'bearer',
        users: { [TEAM[0]]: { password: TEAM[1], repositories: ['team/app'] } },
        public: [
          'library/app',
          'library/base',
          'library/slow',
          'library/next',
          'library/broken',
          'library/large',
        ],
      },
    });
    for (const [at, name] of ['app', 'base', 'slow'].entries()) {
      const image = images[at];
      if (image !== undefined) upstream.add(`library/${name}`, image, '1.0');
    }
    upstream.add('library/next', imageOf([randomBlob(400_000, 'browser next')]), '2.0');
    upstream.add('team/app', imageOf([randomBlob(400_000, 'browser team')]), '1.0');
    const secret = join(folder, 'team-a.json');
    await writeSecret(secret, { [UPSTREAM]: TEAM });
    const list = join(folder, 'images.txt');
    await writeFile(list, `${UPSTREAM}/library/app:1.0\n${UPSTREAM}/library/missing:1.0\n`);
    entrepot = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      hosted: { prefixes: ['hosted'], anonymous: 'push' },
      tenants: [
        { name: 'team-a', secrets: secret, quotaBytes: '1GiB' },
        { name: 'team-b', secrets: [] },
      ],
      prepull: { from: [list] },
      audit: { output: 'file', auditFile: join(folder, 'audit.log') },
      notifications: { endpoints: [{ name: 'ci', url: receiver.url, events: ['pull'] }] },
    });
    await pullAll('library/app', '1.0');
    await pullAll('library/base', '1.0');
    browser = await Browser.start();
  });

  afterAll(async () => {
    await browser?.close();
    await entrepot?.remove();
    await receiver?.close();
    await upstream?.stop();
    await removeFolder(folder);
  });

  beforeEach(async () => {
    watched = await browser.open();
    page = watched.page;
  });

  afterEach(async () => {
    upstream.behave();
    const { faults } = watched;
    await watched.close();
    if (faults.length > 0) throw new Error(`on the page: ${faults.join('; ')}`);
  });

  /** As a node pulls: manifest, config and layers. */
  async function pullAll(repository: string, tag: string): Promise<void> {
    const manifest = await get(`${entrepot.url}/v2/${UPSTREAM}/${repository}/manifests/${tag}`);
    expect(manifest.status).toBe(200);
    const { config, layers: descriptors }: { config: { digest: string }; layers: { digest: string }[] } =
      JSON.parse(manifest.text);
    for (const { digest } of [config, ...descriptors]) {
      const blob = await get(`${entrepot.url}/v2/${UPSTREAM}/${repository}/blobs/${digest}`);
      expect([blob.status, blob.complete]).toEqual([200, true]);
    }
  }

  async function admin<Document>(path: string): Promise<Document> {
    const { status, text } = await get(`${entrepot.ops}/admin/v1/${path}`);
    expect([path, status]).toEqual([path, 200]);
    return JSON.parse(text);
  }

  async function show(screen: string): Promise<void> {
    await page.goto(`${entrepot.ops}/ui/#/${screen}`);
    await page.getByText('Live', { exact: true }).waitFor();
    await expect.poll(() => page.getByText('Loading…').count()).toBe(0);
  }

  /** What the server computes in such a time: the least of three, since whatever else the machine does only adds to it. */
  async function cpuSecondsOver(ms: number): Promise<number> {
    const spans: number[] = [];
    while (spans.length < 3) {
      const before = entrepot.cpuSeconds();
      await watched.page.waitForTimeout(ms);
      spans.push(entrepot.cpuSeconds() - before);
    }
    return Math.min(...spans);
  }

  /** The text of a figure or fact, by its label. */
  const valueOf = (label: string) => page.locator(`dt:text-is("${label}") + dd`).first();

  test('shows the figures of the API on each screen', async () => {
    await show('overview');
    const overview = await admin<OverviewDocument>('overview');
    expect(overview.saved.inAll.sentBytes).toBeGreaterThan(LAYER_BYTES * 2);
    await expect
      .poll(() => valueOf('Sent to clients').textContent())
      .toBe(bytesText(overview.saved.inAll.sentBytes));
    expect(await valueOf('Saved').textContent()).toBe(bytesText(overview.saved.inAll.savedBytes));
    expect(await valueOf('Stored').textContent()).toContain(bytesText(overview.store.heldBytes));
    expect(await valueOf('Pulls').textContent()).toBe(
      numberText(overview.days.reduce((sum, { pulls }) => sum + pulls, 0)),
    );

    await show('images');
    const { entries } = await admin<ImagesDocument>('images?limit=500');
    expect(entries.map(({ image }) => image)).toContain(`${UPSTREAM}/library/app:1.0`);
    for (const { image, ownBytes, sharedBytes } of entries) {
      const row = page.getByRole('row').filter({ has: page.getByRole('link', { name: image, exact: true }) });
      expect(await row.getByRole('cell').allTextContents()).toEqual(
        expect.arrayContaining([bytesText(ownBytes), bytesText(sharedBytes)]),
      );
    }

    await show('upstreams');
    const upstreams = await admin<UpstreamsDocument>('upstreams');
    for (const { name, url } of upstreams.entries) {
      expect(await page.getByRole('row', { name }).first().textContent()).toContain(url);
    }

    await show('tenants');
    const tenants = await admin<TenantsPage>('tenants');
    expect(tenants.entries.map(({ name }) => name)).toEqual(['team-a', 'team-b']);
    for (const { name, usedBytes } of tenants.entries) {
      expect(await page.getByRole('row', { name }).textContent()).toContain(bytesText(usedBytes));
    }

    await show('air-gap');
    expect(await page.getByRole('row', { name: 'library/app' }).textContent()).toContain('stored');
    expect(await page.getByRole('row', { name: 'library/missing' }).textContent()).toContain('missing');
    const [problem] = overview.problems.filter(({ kind }) => kind === 'prepull');
    expect(problem?.text).toMatch(/^1 of the images and lists of prepull /);

    await show('upkeep');
    expect(await valueOf('Stored').textContent()).toContain(bytesText(overview.store.heldBytes));
  });

  test('counts pulls, and shows them by day, without being loaded again', async () => {
    await show('overview');
    const pulls = Number(await valueOf('Pulls').textContent());
    await page.getByText('The numbers').click();
    const today = page.getByRole('table', { name: 'By day' }).getByRole('row').nth(1);
    expect(await today.textContent()).toContain(String(pulls));
    // The first may be in an answer that was asked for meanwhile.
    for (const more of [1, 2, 3]) {
      await pullAll('library/app', '1.0');
      await expect.poll(() => valueOf('Pulls').textContent()).toBe(String(pulls + more));
      expect(await today.textContent()).toContain(String(pulls + more));
    }
  });

  test('shows a download from its first byte to its last, without being loaded again', async () => {
    const latches = [0.25, 0.6].map(share => ({ atByte: LAYER_BYTES * share, latch: new Latch() }));
    const [quarter, more] = latches;
    if (quarter === undefined || more === undefined) throw new Error('there are two');
    await show('now');
    await page.getByText('Nothing is being downloaded').waitFor();
    const loads = watched.urls.filter(url => url.endsWith('/ui/')).length;
    upstream.misbehave({
      kind: 'blob',
      reference: layers[2]?.digest ?? '',
      times: 1,
      pause: { atByte: quarter.atByte, until: quarter.latch.opened },
    });
    const pulled = pullAll('library/slow', '1.0');
    const row = page.getByRole('row', { name: /library\/slow/ }).filter({ hasText: '2.9 MiB' });
    await row.getByText(/\b(?:1\d|2[0-5]) %/).waitFor();
    const { entries } = await admin<FillsDocument>('fills');
    expect(entries.map(({ repository }) => repository)).toEqual([`${UPSTREAM}/library/slow`]);
    quarter.latch.open();
    await row.getByText('100 %').waitFor();
    await row.getByText('stored', { exact: true }).waitFor();
    await pulled;
    expect(watched.urls.filter(url => url.endsWith('/ui/')).length).toBe(loads);
  });

  test('shows a push that begins while it is looked at, until it ends', async () => {
    let answers = 0;
    page.on('response', response => void (answers += Number(response.url().includes('/uploads?'))));
    await show('now');
    await page.getByText('Nobody is pushing').waitFor();
    // The first events may have another answer follow the first one. After those, only a change has.
    const newAnswers = async (): Promise<number> => {
      const before = answers;
      await delay(2_000);
      return answers - before;
    };
    await expect.poll(newAnswers).toBe(0);
    const blob = randomBlob(500_000, 'browser push');
    const session = entrepot.url + (await beginUpload(entrepot.url, 'hosted/app'));
    expect(await sendBytes('PATCH', session, blob, { end: 300_000 })).toBe(202);
    await page.getByRole('table', { name: 'Unfinished pushes' }).getByText(bytesText(300_000)).waitFor();
    expect((await get(session, { method: 'DELETE' })).status).toBe(204);
    await page.getByText('Nobody is pushing').waitFor();
  });

  test('says how this registry is used, where its blobs are, and what is wrong with that place', async () => {
    const s3 = await FakeS3.start();
    const { endpoint, region, bucket, keys } = s3;
    const credentialsFile = join(folder, 's3-keys');
    await writeFile(
      credentialsFile,
      `[default]\naws_access_key_id = ${keys.accessKeyId}\naws_secret_access_key = ${keys.secretAccessKey}\n`,
    );
    const presets = Object.fromEntries(Object.keys(PRESETS).map(name => [name, false]));
    const own = await Entrepot.start({
      upstreams: { ...presets, [UPSTREAM]: { url: upstream.url } },
      hosted: { prefixes: ['hosted'], anonymous: 'push' },
      storage: {
        maxLocalBytes: '8MiB',
        s3: { endpoint, region, bucket, pathStyle: true, credentials: 'file', credentialsFile },
      },
    });
    try {
      await page.goto(`${own.ops}/ui/#/overview`);
      await page.getByText(`docker pull ${own.host}/${UPSTREAM}/REPOSITORY:TAG`).waitFor();
      await page.getByText(`docker push ${own.host}/hosted/REPOSITORY:TAG`).waitFor();
      expect(await valueOf('Mirrors').textContent()).toBe(UPSTREAM);
      await pushImage(own.url, 'hosted/app', 'v1', imageOf([randomBlob(500_000, 'browser bucket')]));

      await page.goto(`${own.ops}/ui/#/upkeep`);
      const { store }: UpkeepDocument = JSON.parse((await get(`${own.ops}/admin/v1/upkeep`)).text);
      await expect.poll(() => valueOf('Kept in').textContent()).toBe(`${store.bucket?.name} in use`);
      expect(await valueOf('Local copies').textContent()).toContain(`of ${bytesText(8 * 2 ** 20)} in `);
      await s3.close();
      await pushImage(own.url, 'hosted/app', 'v2', imageOf([randomBlob(1_000, 'browser lost')])).catch(
        () => {},
      );
      await page.reload();
      await expect
        .poll(() => valueOf('Kept in').textContent())
        .toMatch(/ not in use since .* it cannot be reached/);
      await page.goto('about:blank');
    } finally {
      await own.remove();
      await s3.close();
    }
  });

  test('offers commands to push and to log in only where somebody can', async () => {
    const own = await Entrepot.start({ hosted: { prefixes: ['hosted'], anonymous: 'pull' } });
    try {
      await page.goto(`${own.ops}/ui/#/overview`);
      await page.getByText('Live', { exact: true }).waitFor();
      expect(await valueOf('Hosts').textContent()).toBe('hosted/…');
      await page.getByText('entrepot hosts containerd').waitFor();
      expect(await page.getByText(/docker (?:push|login)/).count()).toBe(0);
      expect((await own.command('tenant', 'add', 'team-a')).code).toBe(0);
      const push = page.getByLabel('Push to it, after logging in', { exact: true });
      await push.waitFor();
      expect(await push.textContent()).toBe(`docker push ${own.host}/team-a/REPOSITORY:TAG`);
      await page.getByText(`docker login ${own.host}`).waitFor();
      await page.goto('about:blank');
    } finally {
      await own.remove();
    }
  });

  test('does not say that an endpoint accepts while another process sends to it', async () => {
    const ci = { name: 'ci', waiting: 3, oldest: null, dropped: 0, reason: null, refused: null, first: [] };
    await page.route('**/admin/v1/notifications', route =>
      route.fulfill({ json: { entries: [{ ...ci, sender: 'process 7 on node-1' }] } }),
    );
    await show('upkeep');
    const row = page.getByRole('row', { name: /^ci/ });
    await row.getByText('another process sends').waitFor();
    expect(await row.textContent()).toContain('process 7 on node-1: its page');
    expect(await row.getByText('accepts', { exact: true }).count()).toBe(0);
  });

  test('breaks reasons that are too long for the screen', async () => {
    const { entries } = await admin<UpstreamsDocument>('upstreams');
    const reason = `library/app blobs/sha256:${'ab'.repeat(32)}: no answer in time from ${UPSTREAM}`;
    const lastError = { at: new Date().toISOString(), reason, repository: `${UPSTREAM}/library/app` };
    await page.route('**/admin/v1/upstreams', route =>
      route.fulfill({ json: { entries: entries.map(each => ({ ...each, lastError })) } }),
    );
    await show('upstreams');
    await page.getByText(reason).first().waitFor();
    expect(await watched.overflow()).toBe(0);
  });

  test('lets a refused pull be found and explained in three clicks', async () => {
    const refused = await get(`${entrepot.url}/v2/${UPSTREAM}/team/app/manifests/1.0`);
    expect(refused.status).toBeGreaterThanOrEqual(401);
    await show('overview');
    await page.getByRole('link', { name: 'Why', exact: true }).click();
    const row = page.getByRole('row', { name: /team\/app:1\.0/ });
    expect(await row.textContent()).toContain(String(refused.status));
    await row.getByRole('link', { name: 'Explain' }).click();
    await page.getByRole('button', { name: 'Explain again' }).waitFor();
    const withoutWait = (texts: readonly string[]) => texts.map(text => text.replace(/again for \w+/, ''));
    const { conclusions } = await admin<ExplainDocument>(`explain?reference=${UPSTREAM}/team/app:1.0`);
    expect(withoutWait(await page.locator('ol.notes li').allTextContents())).toEqual(
      withoutWait(conclusions),
    );
    await page.getByText(`entrepot explain ${UPSTREAM}/team/app:1.0`).waitFor();
    expect((await getAs(TEAM, `${entrepot.url}/v2/${UPSTREAM}/team/app/manifests/1.0`)).status).toBe(200);
  });

  test('explains what a tenant was refused for that tenant', async () => {
    const refused = await getAs(TEAM, `${entrepot.url}/v2/${UPSTREAM}/team/none/manifests/1.0`);
    expect(refused.status).toBeGreaterThanOrEqual(401);
    await show('why');
    const row = page.getByRole('row', { name: /team\/none:1\.0/ }).filter({ hasText: 'team-a' });
    await row.getByRole('link', { name: 'Explain' }).click();
    await page.getByText(`entrepot explain ${UPSTREAM}/team/none:1.0 --tenant team-a`).waitFor();
  });

  test('shows a new login until the dialog is closed, whatever is typed, and why there is no tenant to show', async () => {
    await show('tenants?tenant=team-b');
    const dialog = page.getByRole('dialog', { name: 'Tenant team-b' });
    await dialog.getByRole('button', { name: 'Rotate the login' }).click();
    const login = dialog.getByText(/^docker login \S+ --username team-b --password entrepot_/);
    await login.waitFor();
    await dialog.getByLabel('This registry, as clients name it').press('Enter');
    await dialog.getByRole('button', { name: 'Close' }).waitFor();
    expect(await login.count()).toBe(1);
    await page.route('**/admin/v1/tenants?name=*', route => route.fulfill({ body: 'a proxy is here' }));
    await page.reload();
    await dialog.getByRole('alert').getByText('something other than the server answered').waitFor();
  });

  test('shows an event that an endpoint of notifications refuses, and goes on without it', async () => {
    await show('upkeep');
    const row = page.getByRole('row', { name: /^ci/ });
    await row.getByText('accepts').waitFor();
    await row.getByRole('button', { name: 'Test ci' }).click();
    await page.getByText('ci accepted a test event with 204').first().waitFor();
    let refused: string | undefined;
    receiver.answer = ({ body }) => {
      const ids: readonly string[] = JSON.parse(body).events.map(({ id }: { id: string }) => id);
      refused ??= ids[0];
      return refused !== undefined && ids.includes(refused) ? 422 : 204;
    };
    await pullAll('library/app', '1.0');
    await row.getByText('refuses an event').waitFor();
    await row.getByRole('button', { name: 'Skip for ci' }).click();
    const dialog = page.getByRole('dialog');
    expect(await dialog.textContent()).toContain(refused);
    await dialog.getByRole('button', { name: 'Skip', exact: true }).click();
    await row.getByText('accepts').waitFor();
    const { entries } = await admin<AuditDocument>('audit');
    expect(entries.find(({ action }) => action === 'admin notification-skip')).toMatchObject({
      subject: 'ci',
      outcome: 'allowed',
    });
  });

  test('pulls, pins, refreshes, removes and collects, and all of it is in the audit log', async () => {
    const image = `${UPSTREAM}/library/next:2.0`;
    await show('images');
    await page.getByRole('button', { name: 'Pull an image…' }).click();
    await page.getByLabel('Image', { exact: true }).fill(image);
    await page.getByRole('button', { name: 'Pull', exact: true }).click();
    await page.getByRole('link', { name: image }).click();
    const dialog = page.getByRole('dialog', { name: image });
    await dialog.getByRole('button', { name: `Pin ${image}` }).click();
    await dialog.getByText('yes: it is never evicted').waitFor();
    await dialog.getByRole('button', { name: `Refresh ${image}` }).click();
    await dialog.getByText(`Up to date: ${image}`).waitFor();
    await dialog.getByRole('button', { name: `Unpin ${image}` }).click();
    await dialog.getByText('no', { exact: true }).waitFor();
    await dialog.getByRole('button', { name: 'Remove…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove', exact: true }).click();
    await page.getByRole('link', { name: image }).waitFor({ state: 'detached' });

    await show('upkeep');
    await page.getByRole('button', { name: 'Collect now' }).click();
    await page.getByText('Collect garbage', { exact: true }).first().waitFor();
    await page.locator('.task').filter({ hasText: 'Collect garbage' }).first().getByText('done').waitFor();

    const { entries } = await admin<AuditDocument>('audit?limit=100');
    const done = entries.filter(({ who }) => who === 'loopback').map(({ action }) => action);
    for (const action of ['pull', 'pin', 'refresh', 'unpin', 'rm', 'gc']) {
      expect(done).toContain(`admin ${action}`);
    }
    await show('activity');
    await page
      .getByRole('row', { name: /loopback.*\bpin\b/ })
      .first()
      .waitFor();
  });

  test('issues a tenant a login, which works, and shows it once', async () => {
    await show('tenants');
    await page.getByRole('button', { name: 'team-b' }).click();
    await page.getByRole('button', { name: 'Rotate the login of team-b' }).click();
    const command = await page.getByRole('dialog').locator('pre').first().textContent();
    const [, username = '', password = ''] = /--username (\S+) --password (\S+)/.exec(command ?? '') ?? [];
    const got = await getAs([username, password], `${entrepot.url}/v2/`);
    expect(got.status).toBe(200);
    await page.reload();
    await page.getByRole('dialog').getByRole('heading', { name: 'Logins issued here' }).waitFor();
    expect(await page.content()).not.toContain(password);
    const { entries } = await admin<AuditDocument>('audit?limit=100');
    expect(JSON.stringify(entries)).not.toContain(password);
    expect(entries.some(({ subject, who }) => subject === 'team-b' && who === 'loopback')).toBe(true);
  });

  test('shows what others have named as text, wherever it appears', async () => {
    upstream.misbehave({ repository: 'library/broken', status: 500, body: MARKUP });
    await get(`${entrepot.url}/v2/${UPSTREAM}/library/broken/manifests/1.0`);
    await get(`${entrepot.url}/v2/${UPSTREAM}/${encodeURIComponent(MARKUP)}/manifests/1.0`);
    await get(`${entrepot.url}/v2/${UPSTREAM}/library/app/manifests/${encodeURIComponent(MARKUP)}`);
    const hostile = encodeURIComponent(MARKUP);
    const places = [
      ...SCREENS,
      `why?image=${hostile}&who=${hostile}`,
      `images?search=${hostile}&image=${hostile}&platform=${hostile}`,
      `tenants?search=${hostile}&tenant=${hostile}`,
      hostile,
    ];
    // Such names are refused, which the browser reports by itself.
    const expected = /^console: Failed to load resource: .* status of (?:400|404|409) /;
    for (const place of places) {
      await page.goto(`${entrepot.ops}/ui/#/${place}`);
      await page.getByText('Live', { exact: true }).waitFor();
      await expect.poll(() => page.getByText('Loading…').count()).toBe(0);
      expect([place, await page.locator('img[src=x]').count()]).toEqual([place, 0]);
    }
    const others = watched.faults.filter(fault => !expected.test(fault));
    watched.faults.splice(0, watched.faults.length, ...others);
  });

  test('is out of reach of pages of other sites: framed, asked by script, or by a name of theirs', async () => {
    const elsewhere = await browser.open();
    const site = await serveSite(`<iframe src="${entrepot.ops}/ui/"></iframe>`);
    try {
      const framed = elsewhere.page.waitForResponse(`${entrepot.ops}/ui/`);
      await elsewhere.page.goto(site.url);
      expect((await framed).status()).toBe(403);
      const script = `Promise.all(['GET', 'POST'].flatMap(method => ['no-cors', 'cors'].map(mode =>
        fetch('${entrepot.ops}/admin/v1/actions/gc', { method, mode, body: method === 'POST' ? '{}' : undefined })
          .then(({ type, status }) => type + status, () => 'refused'))))`;
      expect(await elsewhere.page.evaluate(script)).toEqual(Array(4).fill('refused'));
      const { port } = new URL(entrepot.ops);
      const rebound = await elsewhere.page.goto(`http://${FOREIGN_NAME}:${port}/ui/`);
      expect(rebound?.status()).toBe(403);
      const linked = await elsewhere.page
        .goto(site.url)
        .then(() => elsewhere.page.evaluate(`location.href = '${entrepot.ops}/ui/'`));
      expect(linked).toBe(`${entrepot.ops}/ui/`);
      await elsewhere.page.getByRole('heading', { name: 'Overview' }).waitFor();
    } finally {
      await elsewhere.close();
      await site.close();
    }
    const { entries } = await admin<AuditDocument>('audit?limit=100');
    expect(entries.filter(({ action, outcome }) => action === 'admin gc' && outcome !== 'allowed')).toEqual(
      [],
    );
  });

  test('goes on after the server was restarted, and what it does then counts', async () => {
    const own = await Entrepot.start({ tenants: [{ name: 'team-a', secrets: [] }] });
    let again: Entrepot | undefined;
    try {
      await page.goto(`${own.ops}/ui/#/tenants`);
      await page.getByText('Live', { exact: true }).waitFor();
      await page.getByRole('button', { name: 'team-a' }).waitFor();
      await own.stop();
      await page.getByText('No connection: trying again').waitFor();
      await page.getByRole('button', { name: 'Add a tenant…' }).click();
      await page.getByLabel(/^Name/).fill('team-b');
      await page.getByRole('button', { name: 'Add', exact: true }).click();
      await page.getByRole('dialog').getByText('the server does not answer').waitFor();
      again = await own.startAgain();
      await page.getByText('Live', { exact: true }).waitFor();
      await page.getByRole('button', { name: 'Add', exact: true }).click();
      await page.getByRole('dialog', { name: 'Tenant team-b' }).waitFor();
      await page.keyboard.press('Escape');
      await page.getByRole('button', { name: 'team-b' }).waitFor();
      const { text } = await get(`${again.ops}/admin/v1/tenants`);
      expect(text).toContain('"team-b"');
    } finally {
      await (again ?? own).remove();
    }
    // What the browser itself says of a server that is not there.
    const expected = /^console: Failed to load resource: net::ERR_/;
    watched.faults.splice(0, Infinity, ...watched.faults.filter(fault => !expected.test(fault)));
  });

  test('does not mention replicas if the server has none, even when it can no longer be asked', async () => {
    const isMeant = (each: { url(): string }) => each.url().endsWith('/replicas');
    const known = page.waitForResponse(isMeant);
    await show('now');
    await (await known).finished();
    await page.route('**/admin/v1/replicas', route => route.abort());
    const asked = page.waitForEvent('requestfailed', isMeant);
    // With each new stream, the page requests everything again.
    await page.evaluate(`for (const hidden of [true, false]) {
      Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });
      document.dispatchEvent(new Event('visibilitychange'));
    }`);
    await asked;
    await page.evaluate(
      'new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))',
    );
    expect(await page.getByRole('heading', { name: 'Replicas' }).count()).toBe(0);
    const expected = /^console: Failed to load resource: net::ERR_FAILED/;
    watched.faults.splice(0, Infinity, ...watched.faults.filter(fault => !expected.test(fault)));
  });

  test('says once that a login does not count any more, and waits for another', async () => {
    const password = join(folder, 'changed-password');
    await writeFile(password, 'the-first', { mode: 0o600 });
    const config = { server: { loopbackAdmin: 'none', admins: [{ name: 'ops', passwordFile: password }] } };
    const own = await Entrepot.start(config);
    const ops = await browser.open({ httpCredentials: { username: 'ops', password: 'the-first' } });
    let again: Entrepot | undefined;
    try {
      await ops.page.goto(`${own.ops}/ui/`);
      await ops.page.getByText('Live', { exact: true }).waitFor();
      await own.stop();
      await writeFile(password, 'the-second');
      again = await own.startAgain();
      await ops.page.getByText('You are no longer logged in').waitFor();
      const requests = ops.urls.length;
      // Longer than between two attempts to reach a server that is not there.
      await ops.page.waitForTimeout(4_000);
      expect(ops.urls.length).toBe(requests);
      await writeFile(password, 'the-first');
      await again.stop();
      again = await own.startAgain();
      await ops.page.getByRole('button', { name: 'Log in again' }).click();
      await ops.page.getByText('Live', { exact: true }).waitFor();
    } finally {
      await ops.close();
      await (again ?? own).remove();
    }
  });

  test('asks for the login again after a dialog that was cancelled, and after a wrong password', async () => {
    const password = join(folder, 'asked-password');
    await writeFile(password, 'the-first', { mode: 0o600 });
    const config = { server: { loopbackAdmin: 'none', admins: [{ name: 'ops', passwordFile: password }] } };
    const own = await Entrepot.start(config);
    const stranger = await browser.open();
    let again: Entrepot | undefined;
    try {
      const dialog = await LoginDialog.of(stranger.page);
      const refused = await stranger.page.goto(`${own.ops}/ui/`);
      expect([refused?.status(), dialog.shown]).toEqual([401, 1]);
      expect(await stranger.page.textContent('body')).toContain('log in as one of server.admins');
      dialog.answers.push(['ops', 'wrong'], ['ops', 'the-first']);
      await stranger.page.reload();
      await stranger.page.getByText('Live', { exact: true }).waitFor();
      await stranger.page.getByText('· ops').waitFor();
      expect(dialog.shown).toBe(3);

      await own.stop();
      await writeFile(password, 'the-second');
      again = await own.startAgain();
      await stranger.page.getByText('You are no longer logged in').waitFor();
      const { shown } = dialog;
      await stranger.page.getByRole('button', { name: 'Log in again' }).click();
      await expect.poll(() => dialog.shown).toBe(shown + 1);
      await stranger.page.getByText('You are no longer logged in').waitFor();
      dialog.answers.push(['ops', 'the-second']);
      await stranger.page.getByRole('button', { name: 'Log in again' }).click();
      await stranger.page.getByText('Live', { exact: true }).waitFor();
      expect(dialog.shown).toBe(shown + 2);
    } finally {
      await stranger.close();
      await (again ?? own).remove();
    }
  });

  test('adopts a tenant whose namespace was created again', async () => {
    const api = await FakeApiServer.start();
    const kubeconfig = join(folder, 'kubeconfig.json');
    const named = { name: 'own', context: { cluster: 'own', user: 'own' } };
    await writeFile(
      kubeconfig,
      JSON.stringify({
        'current-context': 'own',
        contexts: [named],
        clusters: [{ name: 'own', cluster: { server: api.url } }],
        users: [{ name: 'own', user: { token: 'token' } }],
      }),
    );
    const namespace = { collection: 'namespaces', name: 'team-c', labels: { entrepot: 'tenant' } } as const;
    api.put(namespace);
    const own = await Entrepot.start({ kubernetes: { kubeconfig, namespaceSelector: 'entrepot=tenant' } });
    try {
      await page.goto(`${own.ops}/ui/#/tenants`);
      const tenant = page.getByRole('button', { name: 'team-c' });
      await tenant.waitFor();
      api.remove(namespace);
      await tenant.waitFor({ state: 'detached' });
      api.put(namespace);
      await page.getByText(/^suspended: its namespace was created again/).waitFor();
      await tenant.click();
      await page.getByRole('button', { name: 'Adopt team-c' }).click();
      await page.getByText('Adopted: team-c').first().waitFor();
      await page.getByRole('button', { name: 'Adopt team-c' }).waitFor({ state: 'detached' });
      await page.keyboard.press('Escape');
      await tenant.waitFor();
      expect(await page.getByText(/suspended/).count()).toBe(0);
      const audit: AuditDocument = JSON.parse((await get(`${own.ops}/admin/v1/audit`)).text);
      expect(audit.entries).toMatchObject([
        { action: 'admin tenant-adopt', subject: 'team-c', outcome: 'allowed' },
      ]);
    } finally {
      await page.goto('about:blank');
      await own.remove();
      await api.close();
    }
  });

  test('turns the pages of one list, and not of another on the same screen', async () => {
    const names = Array.from(
      { length: 60 },
      (_, at) => `${UPSTREAM}/library/image-${String(at).padStart(2, '0')}:1`,
    );
    const list = join(folder, 'many.txt');
    await writeFile(list, names.join('\n'));
    const own = await Entrepot.start({ prepull: { from: [list] }, offline: true });
    try {
      await page.goto(`${own.ops}/ui/#/air-gap`);
      await page.getByText('No bundle was exported or imported').waitFor();
      await page
        .getByRole('navigation', { name: 'Pages: Images of the lists' })
        .getByRole('button', { name: 'Next' })
        .click();
      await page.getByRole('row', { name: 'image-59' }).waitFor();
      expect(await page.getByRole('navigation', { name: 'Pages: Bundles' }).count()).toBe(0);
    } finally {
      await page.goto('about:blank');
      await own.remove();
    }
  });

  test('asks for a login where there is no other right, and offers a reader no changes', async () => {
    const password = join(folder, 'password');
    await writeFile(password, 'of-reader', { mode: 0o600 });
    const closed = await Entrepot.start({
      server: {
        loopbackAdmin: 'none',
        admins: [{ name: 'reader', passwordFile: password, rights: 'read' }],
      },
      tenants: [{ name: 'team-a', secrets: [] }],
    });
    const stranger = await browser.open();
    const reader = await browser.open({ httpCredentials: { username: 'reader', password: 'of-reader' } });
    try {
      await expect(stranger.page.goto(`${closed.ops}/ui/`)).rejects.toThrow('ERR_INVALID_AUTH_CREDENTIALS');
      await reader.page.goto(`${closed.ops}/ui/#/tenants`);
      await reader.page.getByText('reader, read-only').waitFor();
      await reader.page.getByRole('button', { name: 'team-a' }).click();
      await reader.page.getByRole('heading', { name: 'Pull secrets' }).waitFor();
      const buttons = await reader.page.getByRole('button').allTextContents();
      expect(buttons.sort()).toEqual(['Close', 'Keys', 'Theme: system', 'team-a']);
      expect(reader.faults).toEqual([]);
    } finally {
      await stranger.close();
      await reader.close();
      await closed.remove();
    }
  });

  test.each(['light', 'dark'] as const)('can be used by everybody, in %s', async colorScheme => {
    for (const viewport of [
      { width: 1280, height: 860 },
      { width: 360, height: 740 },
    ]) {
      const other = await browser.open({ colorScheme, viewport, reducedMotion: 'reduce' });
      page = other.page;
      for (const screen of [
        ...SCREENS,
        'tenants?tenant=team-a',
        `images?image=${UPSTREAM}/library/app:1.0`,
      ]) {
        await show(screen);
        expect([screen, await other.violations()]).toEqual([screen, []]);
        expect([screen, await other.overflow()]).toEqual([screen, 0]);
      }
      await other.close();
      expect(other.faults).toEqual([]);
    }
  });

  test('is used by keyboard: skip link, keys for screens, the filter, help; and keys can be switched off', async () => {
    await show('overview');
    await page.keyboard.press('Tab');
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Skip to the content');
    await page.keyboard.press('Enter');
    expect(await page.evaluate('document.activeElement.tagName')).toBe('H1');
    await page.keyboard.press('4');
    await page.getByRole('heading', { name: 'Images', level: 1 }).waitFor();
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Images');
    await page.getByRole('link', { name: `${UPSTREAM}/library/app:1.0` }).press('Enter');
    await page.getByRole('dialog').getByRole('term').first().waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    expect(await page.evaluate('document.activeElement.textContent')).toBe(`${UPSTREAM}/library/app:1.0`);
    await page.keyboard.press('/');
    await page.keyboard.type('base 1');
    await expect.poll(() => page.url()).toContain('search=base+1');
    await page.keyboard.press('Tab');
    await page.locator('h1').focus();
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keys' }).getByLabel('Use these keys').uncheck();
    await page.keyboard.press('Escape');
    await page.keyboard.press('1');
    await page.reload();
    await page.getByRole('heading', { name: 'Images', level: 1 }).waitFor();
    expect(await page.getByRole('searchbox').inputValue()).toBe('base 1');
  });

  test.each(['light', 'dark'] as const)(
    'shows where the keyboard is on each screen, in %s',
    async colorScheme => {
      const other = await browser.open({ colorScheme });
      page = other.page;
      for (const screen of SCREENS) {
        // From one screen to another the focus goes to the heading: here it begins at the top.
        await page.goto('about:blank');
        await show(screen);
        const names: string[] = [];
        const faults: string[] = [];
        for (;;) {
          await page.keyboard.press('Tab');
          const focused = await other.focused();
          if (focused === undefined) break;
          if (focused.fault !== undefined) faults.push(`${focused.name}: ${focused.fault}`);
          names.push(focused.name);
        }
        expect([screen, faults]).toEqual([screen, []]);
        // The order of the page, which ends after what the screen itself has.
        expect(names.slice(0, 3)).toEqual(['Skip to the content', 'Overview', 'Now']);
        expect(names).toContain('Keys');
      }
      await other.close();
      expect(other.faults).toEqual([]);
    },
  );

  test('keeps the focus at what was pressed, or near it if that is gone', async () => {
    const image = 'hosted/focus:v1';
    await pushImage(entrepot.url, 'hosted/focus', 'v1', imageOf([randomBlob(1_000, 'browser focus')]));
    const focused = async () => (await watched.focused())?.name;
    await show('upkeep');
    await page.getByRole('button', { name: 'Test ci' }).press('Enter');
    await page.getByText('ci accepted a test event').first().waitFor();
    expect(await focused()).toBe('Test ci');

    await show('images');
    await page.getByRole('link', { name: image }).press('Enter');
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: `Pin ${image}` }).press('Enter');
    await dialog.getByText('yes: it is never evicted').waitFor();
    expect(await focused()).toBe(`Unpin ${image}`);
    await page.keyboard.press('Enter');
    await dialog.getByText('no', { exact: true }).waitFor();
    await dialog.getByRole('button', { name: 'Remove…' }).press('Enter');
    await page.getByRole('dialog').getByRole('button', { name: 'Remove', exact: true }).press('Enter');
    await page.getByRole('link', { name: image }).waitFor({ state: 'detached' });
    await expect.poll(focused).toBe('Images');
    await page.keyboard.press('Tab');
    expect(await focused()).not.toBe('Skip to the content');
  });

  test('keeps the chosen theme', async () => {
    await show('overview');
    const ground = () => page.evaluate('getComputedStyle(document.body).backgroundColor');
    const light = await ground();
    const button = page.getByRole('button', { name: /^Theme: / });
    await button.click();
    expect(await button.textContent()).toBe('Theme: light');
    await button.click();
    await expect.poll(ground).not.toBe(light);
    const dark = await ground();
    await page.reload();
    expect(await ground()).toBe(dark);
  });

  test('shows a thousand downloads as fifty rows, which sort and filter in the address', async () => {
    const fillsFrom = (from: number): FillsDocument => ({
      total: 1_000,
      next: from === 0 ? 'further' : null,
      ended: [],
      entries: Array.from({ length: 500 }, (_, place) => from + place).map(at => ({
        id: `fill-${at}`,
        upstream: UPSTREAM,
        repository: `${UPSTREAM}/library/image-${at}`,
        digest: `sha256:${String(at).padStart(64, '0')}`,
        kind: 'whole' as const,
        state: 'downloading',
        bytes: at * 1000,
        size: 1_000_000,
        readers: 1,
        requesters: ['anonymous'],
        started: new Date(Date.now() - at * 1000).toISOString(),
        holder: null,
        bytesPerSecond: 1_000,
        remainingSeconds: 5,
      })),
    });
    await page.route('**/admin/v1/fills?*', route =>
      route.fulfill({ json: fillsFrom(route.request().url().endsWith('&after=further') ? 500 : 0) }),
    );
    await show('now');
    const rows = page.getByRole('table', { name: 'Downloads' }).locator('tbody tr');
    await expect.poll(() => rows.count()).toBe(50);
    await page.getByText('1,000', { exact: true }).waitFor();
    await page.getByRole('button', { name: 'Progress' }).click();
    await page.getByRole('button', { name: 'Progress' }).click();
    await expect.poll(() => rows.first().textContent()).toContain('image-999');
    await page.getByRole('searchbox', { name: 'Filter: Downloads' }).fill('image-42');
    await expect.poll(() => rows.count()).toBe(11);
    await page.reload();
    await expect.poll(() => rows.count()).toBe(11);
    expect(await rows.first().textContent()).toContain('image-429');
  });

  test('asks for nothing while nothing changes, and ten pages cost the server less than 1 % of a core', async () => {
    const tabs = await Promise.all([...SCREENS, 'overview'].map(() => browser.open()));
    for (const [at, tab] of tabs.entries()) {
      page = tab.page;
      await show(SCREENS[at] ?? 'overview');
    }
    const requests = () => tabs.map(({ urls }) => urls.length);
    // What each screen has to ask, and once more after the stream's first event: as much later as ten answers take.
    let known: readonly number[] = [];
    await expect
      .poll(
        () => {
          const isSettled = requests().join() === known.join();
          known = requests();
          return isSettled;
        },
        { interval: 10_000, timeout: 60_000 },
      )
      .toBe(true);
    const withTabs = await cpuSecondsOver(IDLE_MS);
    const asked = tabs.flatMap(({ urls }, at) => urls.slice(known[at]));
    // Failures of upstreams are forgotten with time, which is a change.
    expect(asked.filter(url => !url.includes('/backoffs?'))).toEqual([]);
    await Promise.all(tabs.map(tab => tab.close()));
    const without = await cpuSecondsOver(IDLE_MS);
    expect(withTabs - without).toBeLessThan((0.01 * IDLE_MS) / 1000);
  });

  test.each(PICTURES)('is pictured in %s', async pictures => {
    await mkdir(pictures, { recursive: true });
    for (let node = 0; node < 12; node += 1) await pullAll('library/base', '1.0');
    const rest = new Latch();
    const large = randomBlob(40_000_000, 'browser large');
    upstream.add('library/large', imageOf([large]), '3.0');
    upstream.misbehave({ reference: large.digest, pause: { atByte: 26_000_000, until: rest.opened } });
    const pulled = pullAll('library/large', '3.0');
    const kinds = [
      { name: 'light', colorScheme: 'light', viewport: { width: 1280, height: 860 } },
      { name: 'dark', colorScheme: 'dark', viewport: { width: 1280, height: 860 } },
      { name: 'narrow', colorScheme: 'light', viewport: { width: 360, height: 740 } },
    ] as const;
    for (const { name, ...options } of kinds) {
      const other = await browser.open(options);
      page = other.page;
      await page.route(/\/admin\/v1\/(?!events)/, withoutThisMachine);
      for (const screen of SCREENS) {
        await show(screen);
        const path = join(pictures, `${screen}-${name}.png`);
        await page.screenshot({ path });
        await run('pngquant', ['--force', '--speed', '1', '--strip', '--output', path, '64', '--', path]);
      }
      await other.close();
      expect(other.faults).toEqual([]);
    }
    rest.open();
    await pulled;

    /** Pictures show names that documents use, instead of ports and folders of this run. */
    async function withoutThisMachine(route: Route): Promise<void> {
      const response = await route.fetch();
      const text = (await response.text())
        .replaceAll(upstream.url, `https://${UPSTREAM}`)
        .replaceAll(upstream.host, UPSTREAM)
        .replaceAll(entrepot.host, 'registry.example:5000')
        .replaceAll(join(entrepot.folder, 'store'), '/var/lib/entrepot')
        .replaceAll(folder, '/etc/entrepot');
      await route.fulfill({ response, body: text });
    }
  });
});

/** Over which ten pages that are open are measured. */
const IDLE_MS = 5_000;

/** A page of somebody else, on an origin of its own. */
async function serveSite(html: string): Promise<{ readonly url: string; close(): Promise<void> }> {
  const server: Server = createServer((_, res) => res.setHeader('Content-Type', 'text/html').end(html));
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () => {
      server.closeAllConnections();
      return new Promise(resolve => server.close(() => resolve()));
    },
  };
}
