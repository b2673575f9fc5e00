// The alerts and the dashboard in config/, against Debian's Prometheus that scrapes a server to which things happen.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { Receiver } from '../../src/events/receiver.fixture.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_POSTGRES, Postgres } from '../support/postgres.ts';
import { Daemon, answers, freePort, hasPrograms, run, until } from '../support/programs.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const CONFIG = fileURLToPath(new URL('../../config/', import.meta.url));

interface Rules {
  readonly groups: readonly {
    readonly rules: readonly { readonly alert: string; readonly expr: string }[];
  }[];
}

interface Dashboard {
  readonly panels: readonly {
    readonly title: string;
    readonly targets?: readonly { readonly expr: string }[];
  }[];
}

/** Of what there is none of here: a Kubernetes cluster, and without a database, replicas. */
const NOT_HERE = HAS_POSTGRES ? /entrepot_kubernetes_/ : /entrepot_kubernetes_|\bentrepot_replicas\b/;

const canRun = hasPrograms('prometheus', 'promtool');

describe.skipIf(!canRun)('Prometheus', () => {
  let folder: string;
  let upstream: FakeUpstream;
  let receiver: Receiver;
  let entrepot: Entrepot;
  let postgres: Postgres | undefined;
  let s3: FakeS3;
  let replica: Entrepot | undefined;
  let prometheus: Daemon;
  let url: string;

  beforeAll(async () => {
    folder = await makeTempFolder('prom');
    const password = join(folder, 'password');
    await writeFile(password, 'secret', { mode: 0o600 });
    upstream = await FakeUpstream.start();
    receiver = await Receiver.start();
    entrepot = await Entrepot.start({
      upstreams: {
        [UPSTREAM]: { url: upstream.url, credentials: { username: 'mirror', passwordFile: password } },
      },
      hosted: { prefixes: ['team'], anonymous: 'push' },
      tenants: [{ name: 'team-a', secrets: [], quotaBytes: '1GiB' }],
      notifications: {
        endpoints: [
          { name: 'inventory', url: receiver.url },
          // Of no use to it: events wait.
          { name: 'ci', url: `${upstream.url}/events` },
        ],
      },
    });
    s3 = await FakeS3.start();
    if (HAS_POSTGRES) {
      postgres = await Postgres.start();
      replica = await Entrepot.start(await replicaConfig({ settings: postgres.settings(), s3, folder }));
    }
    url = `http://127.0.0.1:${await freePort()}`;
    const targets = [entrepot, replica].flatMap(each => (each === undefined ? [] : new URL(each.ops).host));
    const scrapes = [{ job_name: 'entrepot', static_configs: [{ targets }] }];
    const configFile = join(folder, 'prometheus.yml');
    await writeFile(
      configFile,
      stringify({
        global: { scrape_interval: '1s', evaluation_interval: '1s' },
        rule_files: [join(CONFIG, 'prometheus', 'alerts.yaml')],
        scrape_configs: scrapes,
      }),
    );
    prometheus = await Daemon.start({
      program: 'prometheus',
      args: [
        `--config.file=${configFile}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=${new URL(url).host}`,
      ],
      cwd: folder,
      isReady: () => answers(`${url}/-/ready`, 200),
    });
  });

  afterAll(async () => {
    await prometheus?.stop();
    await entrepot?.remove();
    await replica?.remove();
    await postgres?.remove();
    await s3?.close();
    await receiver?.close();
    await upstream?.stop();
    await removeFolder(folder);
  });

  /** How many series a query returns. */
  async function seriesOf(expr: string): Promise<number> {
    const { data } = await ask<{ data: { result: readonly unknown[] } }>('query', { query: expr });
    return data.result.length;
  }

  async function ask<Answer>(path: string, query: Readonly<Record<string, string>> = {}): Promise<Answer> {
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(query).toString()}`);
    const text = await response.text();
    if (!response.ok) throw new Error(`${query['query']}: ${text}`);
    return JSON.parse(text) as Answer;
  }

  /** Pulls that miss, join, hit, fail and are refused; pushes, deletes and collections. */
  async function herd(round: number): Promise<void> {
    const image = imageOf([randomBlob(200_000, `layer ${round}`)]);
    upstream.add('app', image, `v${round}`);
    const budget = { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': `${90 - round};w=21600` };
    const behave = upstream.misbehave({ headers: budget });
    const path = (kind: string, name: string) => `${entrepot.url}/v2/${UPSTREAM}/app/${kind}/${name}`;
    const nodes = Array.from({ length: 10 }, async () => {
      await get(path('manifests', `v${round}`));
      for (const { digest } of [image.config, ...image.layers]) await get(path('blobs', digest));
    });
    await Promise.all(nodes);
    await get(path('manifests', 'none'));
    behave();
    const recover = upstream.misbehave({ kind: 'manifest', status: 500 });
    await get(path('manifests', `broken-${round}`));
    recover();
    await get(`${entrepot.url}/token?service=entrepot`);
    const pushed = randomBlob(50_000, `pushed ${round}`);
    await push(pushed);
    await get(`${entrepot.url}/v2/team/app/blobs/${pushed.digest}`, { method: 'DELETE' });
    await entrepot.command('gc', '--grace-period', '0s');
  }

  async function push(blob: Content): Promise<void> {
    const to = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    expect((await get(to, { method: 'POST', body: bytesOf(blob) })).status).toBe(201);
  }

  test('the rules are valid, and each alert fires when it should and not before', async () => {
    expect(await run('promtool', ['check', 'rules', join(CONFIG, 'prometheus', 'alerts.yaml')])).toMatch(
      /SUCCESS/,
    );
    const tested = await run('promtool', ['test', 'rules', join(CONFIG, 'prometheus', 'alerts.test.yaml')]);
    expect(tested).toContain('SUCCESS');
    const { groups } = parse(await readFile(join(CONFIG, 'prometheus', 'alerts.yaml'), 'utf8')) as Rules;
    const tests = await readFile(join(CONFIG, 'prometheus', 'alerts.test.yaml'), 'utf8');
    for (const { alert } of groups.flatMap(({ rules }) => rules)) {
      expect(tests).toMatch(new RegExp(`alertname: ${alert}\\n *exp_alerts:`));
    }
  });

  test('every query of the alerts and of the dashboard returns series', async () => {
    const { groups } = parse(await readFile(join(CONFIG, 'prometheus', 'alerts.yaml'), 'utf8')) as Rules;
    const alerts = groups.flatMap(({ rules }) => rules.map(({ expr }) => expr));
    // Each side of a comparison, which itself returns nothing while all is well.
    const compared = alerts.flatMap(expr =>
      expr.split(/ or | < (?=entrepot)/).map(side => side.replace(/ (?:[<>]|==) [\d.]+$/, '')),
    );
    const dashboard = JSON.parse(
      await readFile(join(CONFIG, 'grafana', 'entrepot.json'), 'utf8'),
    ) as Dashboard;
    const shown = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
    const queries = [...compared, ...shown]
      .filter(expr => !NOT_HERE.test(expr))
      .map(expr =>
        expr
          .replaceAll('$job', 'entrepot')
          .replaceAll('$instance', '.*')
          .replaceAll('$__rate_interval', '15s'),
      );
    expect(queries.length).toBeGreaterThan(40);
    let empty: readonly string[] = queries;
    let round = 0;
    await until('every query to return series', 120_000, async () => {
      await herd((round += 1));
      const counts = await Promise.all(empty.map(seriesOf));
      empty = empty.filter((_, at) => counts[at] === 0);
      return empty.length === 0;
    }).catch((error: unknown) => {
      throw new Error(`no series of ${empty.join('\n')}`, { cause: error });
    });
    const { data } = await ask<{
      data: { alerts: readonly { labels: { alertname: string }; state: string }[] };
    }>('alerts');
    expect(data.alerts.filter(({ state }) => state === 'firing')).toEqual([]);
  }, 240_000);
});
