import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { type Log, silentLog } from '../../lib/log.ts';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { silentMeter } from '../../lib/meter.ts';
import type { KnownTenant } from '../../oci/issued-credential.ts';
import { dockerConfig } from '../tenants.fixture.ts';
import type { SecretSink, TenantReading } from '../secret-source.ts';
import { readClusterIssuer } from './cluster-issuer.ts';
import { FakeApiServer, type Written } from './fake-api-server.fixture.ts';
import { KubeClient } from './kube-client.ts';
import { SeenCluster } from './seen-cluster.ts';
import { KubernetesSource, type KubernetesSourceOptions } from './kubernetes-source.ts';

const LABELS = { entrepot: 'tenant' };
/** No pause between two attempts is longer; the first is at most as long as AFTER_FIRST_MS. */
const MAX_BACKOFF_MS = 12_000;
const AFTER_FIRST_MS = 300;
const WITHIN = { timeout: 15_000, interval: 10 };

/** Keeps what a source says. */
class Kept implements SecretSink {
  readonly tenants = new Map<string, TenantReading>();

  put(tenant: string, reading: TenantReading): void {
    this.tenants.set(tenant, reading);
  }

  remove(tenant: string): void {
    this.tenants.delete(tenant);
  }

  /** Names and states of a tenant's Secrets, in order. */
  secrets(tenant: string): readonly string[] | undefined {
    return this.tenants.get(tenant)?.secrets.map(({ name, result }) => `${name} ${result.state}`);
  }

  password(tenant: string): string | undefined {
    const [first] = this.tenants.get(tenant)?.secrets ?? [];
    if (first?.result.state !== 'loaded') return undefined;
    return JSON.stringify([...first.result.secret.config.values()]);
  }
}

let api: FakeApiServer;
let source: KubernetesSource;
let kept: Kept;
let lines: string[];
let down: number;

const log: Log = {
  ...silentLog,
  info: (fields, message) => void lines.push(`${message} ${JSON.stringify(fields)}`),
  error: (fields, message) => void lines.push(`${message} ${JSON.stringify(fields)}`),
  warn: (fields, message) => void lines.push(`${message} ${JSON.stringify(fields)}`),
};

beforeEach(async () => {
  api = await FakeApiServer.start();
  kept = new Kept();
  lines = [];
  down = 0;
});

afterEach(async () => {
  await source.close();
  await api.close();
});

async function start(
  options: Partial<KubernetesSourceOptions> = {},
  known: readonly KnownTenant[] = [],
): Promise<void> {
  source = new KubernetesSource({
    client: new KubeClient({ server: api.url, token: () => Promise.resolve('t') }),
    namespaces: { labelSelector: 'entrepot=tenant' },
    listKnownTenants: () => Promise.resolve(known),
    log,
    meter: {
      ...silentMeter,
      gauge: (name, value = 0) => {
        if (name === 'kubernetes_watches_down') down = value;
      },
    },
    ...options,
  });
  await source.start(kept);
}

function namespace(name: string, labels: Readonly<Record<string, string>> = LABELS): Written {
  return { collection: 'namespaces', name, labels };
}

function secret(of: string, name: string, login = 'user:password'): Written {
  const data = {
    '.dockerconfigjson': Buffer.from(dockerConfig({ 'reg.example': login })).toString('base64'),
  };
  const fields = { type: 'kubernetes.io/dockerconfigjson', data };
  return { collection: 'secrets', namespace: of, name, fields };
}

function account(of: string, name: string, secrets: readonly string[]): Written {
  const imagePullSecrets = secrets.map(one => ({ name: one }));
  return { collection: 'serviceaccounts', namespace: of, name, fields: { imagePullSecrets } };
}

function annotated(value: string): Pick<Written, 'annotations'> {
  return { annotations: { 'entrepot-push': value } };
}

const eventually = (assertion: () => void) => vi.waitFor(assertion, WITHIN);

describe('namespaces of a cluster', () => {
  it('are tenants by their label, with their UIDs and their pull Secrets of both types', async () => {
    const uid = api.put(namespace('team-a'));
    api.put(namespace('other', {}));
    api.put(secret('team-a', 'json'));
    api.put(secret('other', 'json'));
    api.put({
      ...secret('team-a', 'old'),
      fields: {
        type: 'kubernetes.io/dockercfg',
        data: { '.dockercfg': Buffer.from('{"r":{"auth":"dTpw"}}').toString('base64') },
      },
    });
    api.put({ ...secret('team-a', 'opaque'), fields: { type: 'Opaque', data: {} } });
    await start();
    expect([...kept.tenants.keys()]).toEqual(['team-a']);
    expect(kept.tenants.get('team-a')?.uid).toBe(uid);
    expect(kept.secrets('team-a')).toEqual(['json loaded', 'old loaded']);
    const asked = api.requests.filter(target => target.includes('/secrets'));
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.every(target => target.includes('fieldSelector=type%3Dkubernetes.io%2Fdocker'))).toBe(true);
  });

  it('are read page by page', async () => {
    for (let at = 0; at < 250; at += 1) api.put(namespace(`team-${at}`));
    await start();
    expect(kept.tenants.size).toBe(250);
    expect(api.requests.filter(target => target.includes('continue=')).length).toBe(2);
  });

  it('that are listed by name are the only ones that are read', async () => {
    for (const name of ['team-a', 'team-b']) {
      api.put(namespace(name, {}));
      api.put(secret(name, 'pull'));
    }
    await start({ namespaces: { names: ['team-b'] } });
    expect(kept.secrets('team-b')).toEqual(['pull loaded']);
    expect([...kept.tenants.keys()]).toEqual(['team-b']);
    expect(api.requests.filter(target => /^\/api\/v1\/(secrets|serviceaccounts)/.test(target))).toEqual([]);
  });

  it('can be added and removed', async () => {
    await start();
    api.put(secret('team-a', 'pull'));
    api.put(namespace('team-a'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['pull loaded']));
    api.put(namespace('team-a', {}));
    await eventually(() => expect(kept.tenants.has('team-a')).toBe(false));
    api.put(namespace('team-a'));
    await eventually(() => expect(kept.tenants.has('team-a')).toBe(true));
    api.remove(namespace('team-a'));
    await eventually(() => expect(kept.tenants.has('team-a')).toBe(false));
  });

  it('are reported with their new UID before anything of the new one counts', async () => {
    const old = api.put(namespace('team-a'));
    await start();
    api.muted.add('namespaces');
    const seen: (readonly [string | undefined, number])[] = [];
    const put = kept.put.bind(kept);
    kept.put = (tenant, reading) => {
      seen.push([reading.uid, reading.secrets.length]);
      put(tenant, reading);
    };
    api.remove(namespace('team-a'));
    const uid = api.put({ ...namespace('team-a'), uid: 'another' });
    api.put(secret('team-a', 'of-somebody-else'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['of-somebody-else loaded']));
    expect(uid).not.toBe(old);
    expect(seen.filter(([, secrets]) => secrets > 0).every(([of]) => of === uid)).toBe(true);
  });
});

describe('Secrets of a namespace', () => {
  beforeEach(() => void api.put(namespace('team-a')));

  it('count in the order of the default account, of the others, and then by name; a missing one is reported', async () => {
    for (const name of ['a', 'b', 'c', 'd']) api.put(secret('team-a', name));
    api.put(account('team-a', 'builder', ['b', 'd']));
    api.put(account('team-a', 'default', ['c', 'absent', 'b']));
    await start();
    expect(kept.secrets('team-a')).toEqual([
      'c loaded',
      'absent missing',
      'b loaded',
      'd loaded',
      'a loaded',
    ]);
    api.put(account('team-a', 'default', ['a']));
    await eventually(() => expect(kept.secrets('team-a')?.[0]).toBe('a loaded'));
  });

  it('that are named by the thousand and do not exist are reported in part', async () => {
    const names = Array.from({ length: 1_500 }, (_, at) => `absent-${at}`);
    api.put(secret('team-a', 'pull'));
    api.put(account('team-a', 'default', ['pull', ...names]));
    await start();
    const told = kept.secrets('team-a');
    expect([told?.length, told?.[0], told?.at(-1)]).toEqual([102, 'pull loaded', '(others) missing']);
  });

  it('can be changed and removed', async () => {
    api.put(secret('team-a', 'pull', 'u:first'));
    await start();
    expect(kept.password('team-a')).toContain('first');
    api.put(secret('team-a', 'pull', 'u:second'));
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    api.remove(secret('team-a', 'pull'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual([]));
  });

  it('that are malformed are reported as such, and whether an account names them', async () => {
    api.put(secret('team-a', 'good'));
    const fields = { type: 'kubernetes.io/dockerconfigjson', data: { '.dockerconfigjson': '!' } };
    api.put({ ...secret('team-a', 'bad'), fields });
    await start();
    expect(kept.secrets('team-a')).toEqual(['bad malformed', 'good loaded']);
    const unnamed = () =>
      kept.tenants
        .get('team-a')
        ?.secrets.flatMap(({ name, isUnnamed }) => (isUnnamed === true ? [name] : []));
    expect(unnamed()).toEqual(['bad', 'good']);
    api.put(account('team-a', 'builder', ['bad']));
    await eventually(() => expect(unnamed()).toEqual(['good']));
  });
});

function lists(): readonly string[] {
  return api.requests.filter(target => target.includes('/secrets') && !target.includes('watch='));
}

describe('a watch', () => {
  beforeEach(() => {
    api.put(namespace('team-a'));
    api.put(secret('team-a', 'pull', 'u:first'));
  });

  it('that ends continues where it was, without listing again', async () => {
    await start();
    await eventually(() => expect(api.watches).toBe(4));
    const before = lists().length;
    api.endWatches();
    api.put(secret('team-a', 'pull', 'u:second'));
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    expect(lists().length).toBe(before);
    expect(down).toBe(0);
  });

  it('continues from the last version that it was told, even if nothing changed up to it', async () => {
    await start();
    await eventually(() => expect(api.watches).toBe(4));
    const before = lists().length;
    api.put({ collection: 'secrets', namespace: 'team-a', name: 'of-no-interest' });
    api.forget();
    api.bookmark();
    api.put(secret('team-a', 'pull', 'u:second'));
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    api.endWatches();
    await eventually(() => expect(api.watches).toBe(4));
    expect(lists().length).toBe(before);
    expect(lines).toEqual([]);
  });

  it.each([
    ['does not know us yet', 401],
    ['does not know yet what we may', 403],
  ])(
    'of a server that is coming up and %s is resumed where it was, without listing anew',
    async (_name, status) => {
      const clock = new ManualClock();
      await start({ clock });
      await eventually(() => expect(api.watches).toBe(4));
      const before = lists().length;
      api.refused.set('/api/v1/secrets', status);
      api.endWatches();
      await eventually(() => expect(clock.waiting).toBe(4));
      await clock.advance(AFTER_FIRST_MS);
      await eventually(() => expect(source.problems.length).toBe(2));
      api.put(secret('team-a', 'pull', 'u:second'));
      api.refused.clear();
      clock.skipWaits(MAX_BACKOFF_MS);
      await eventually(() => expect(kept.password('team-a')).toContain('second'));
      expect(lists().length).toBe(before);
      await eventually(() => expect(down).toBe(0));
    },
  );

  it('that is too old for the server is not reported as followed before it is', async () => {
    await start();
    const { port } = api;
    await api.close();
    await eventually(() => expect(down).toBe(4));
    api.forget();
    api.isGoneAnEvent = true;
    await api.listen(port);
    await eventually(() => expect(down).toBe(0));
    const told = lines.filter(line => line.includes('"namespaces"')).map(line => line.replace(/[:{].*/, ''));
    expect(told).toEqual([
      'the cluster cannot be watched',
      'the resource version of a watch has expired',
      'the cluster is watched again ',
    ]);
  });

  it.each([
    ['is too old when it is asked for', () => api.endWatches()],
    ['becomes too old in the middle', () => api.failWatches(410)],
  ])('that %s is followed by a new list, in which what is gone is gone', async (_name, fail) => {
    api.put(secret('team-a', 'second'));
    api.put(namespace('team-b'));
    api.put(secret('team-b', 'only'));
    await start();
    expect(kept.secrets('team-b')).toEqual(['only loaded']);
    await eventually(() => expect(api.watches).toBe(4));
    api.muted.add('secrets');
    api.forget();
    fail();
    api.put(secret('team-a', 'third'));
    api.remove(secret('team-a', 'second'));
    api.remove(secret('team-b', 'only'));
    api.forget();
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['pull loaded', 'third loaded']));
    await eventually(() => expect(kept.secrets('team-b')).toEqual([]));
    expect(lists().length).toBeGreaterThan(2);
    await eventually(() => expect(down).toBe(0));
  });

  it('may be forbidden: then lists are repeated', async () => {
    api.watchStatus = 403;
    await start({ clock: new ManualClock().skipWaits(MAX_BACKOFF_MS) });
    expect(kept.password('team-a')).toContain('first');
    api.put(secret('team-a', 'pull', 'u:second'));
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    await eventually(() => expect(down).toBe(4));
    expect(lines.some(line => line.includes('cannot watch'))).toBe(true);
  });
});

describe('a list', () => {
  it('whose pages expire halfway is requested without pages', async () => {
    for (let at = 0; at < 150; at += 1) api.put(namespace(`team-${at}`));
    api.forgottenPages = 1;
    await start();
    await eventually(() => expect(kept.tenants.size).toBe(150));
  });
});

describe('a cluster that cannot be reached', () => {
  beforeEach(() => {
    api.put(namespace('team-a'));
    api.put(secret('team-a', 'pull', 'u:first'));
  });

  it('keeps its last known state, is reported as unreachable once, and is followed again when it is back', async () => {
    const clock = new ManualClock().skipWaits(MAX_BACKOFF_MS);
    await start({ clock });
    const { port } = api;
    await api.close();
    await eventually(() => expect(down).toBe(4));
    const downSinceMs = clock.monotonicMs();
    await eventually(() => expect(clock.monotonicMs() - downSinceMs).toBeGreaterThan(60_000));
    expect(kept.password('team-a')).toContain('first');
    expect(source.problems.filter(text => text.startsWith(`secrets of 127.0.0.1:${port}: `)).length).toBe(2);
    expect(lines.filter(line => line.includes('cannot be watched')).length).toBeLessThanOrEqual(8);
    api.put(secret('team-a', 'pull', 'u:second'));
    await api.listen(port);
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    await eventually(() => expect(down).toBe(0));
  });

  it('at the start keeps the known tenants, whose Secrets cannot be read', async () => {
    const { port } = api;
    await api.close();
    const known = [
      { name: 'team-a', uid: 'before' },
      { name: 'gone', uid: 'gone' },
      { name: 'of-the-command-line', uid: undefined },
    ];
    const client = new KubeClient({
      server: new URL(`http://127.0.0.1:${port}`),
      token: () => Promise.resolve(undefined),
    });
    await start({ client }, known);
    expect([...kept.tenants.keys()]).toEqual(['team-a', 'gone']);
    expect(kept.tenants.get('team-a')).toMatchObject({
      uid: 'before',
      secrets: [{ result: { state: 'unread', reason: expect.stringContaining('cannot connect') } }],
    });
    await api.listen(port);
    await eventually(() => expect(kept.password('team-a')).toContain('first'));
    await eventually(() => expect([...kept.tenants.keys()]).toEqual(['team-a']));
  });
});

describe('an object that is too large', () => {
  /** As etcd takes it: a name of 1.2 MB, in which JSON escapes each character. */
  const OWNER = '\\u003c'.repeat(1_200_000);
  const huge = { ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name: OWNER, uid: 'x' }] };

  beforeEach(() => {
    api.put(namespace('team-a'));
    api.put(namespace('team-b'));
    api.put(namespace('other', {}));
    api.put(secret('team-a', 'pull', 'u:first'));
  });

  it.each(['team-b', 'other'])('in %s hides no later change, before and after a restart', async of => {
    await start();
    await eventually(() => expect(api.watches).toBe(4));
    api.put({ ...secret(of, 'culprit'), metadata: huge });
    api.put({ ...account(of, 'culprit', []), metadata: huge });
    api.put(secret('team-a', 'pull', 'u:second'));
    api.put(secret('team-b', 'small'));
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    await eventually(() => expect(kept.secrets('team-b')).toContain('small loaded'));
    await eventually(() =>
      expect(
        source.passedOver.map(({ resource, namespace: where, name }) => [resource, where, name]),
      ).toEqual([
        ['secrets', of, 'culprit'],
        ['serviceaccounts', of, 'culprit'],
      ]),
    );
    api.endWatches();
    await eventually(() => expect(api.watches).toBe(4));
    api.remove(secret('team-a', 'pull'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual([]));
    expect(down).toBe(0);
    expect(lines.filter(line => line.includes('objects of the cluster are skipped')).length).toBe(1);
    expect(lines.filter(line => line.includes('objects of the cluster are skipped')).join()).toContain(
      `"namespace":"${of}"`,
    );

    await source.close();
    kept = new Kept();
    await start();
    expect(kept.secrets('team-b')).toEqual(
      of === 'team-b' ? ['culprit malformed', 'small loaded'] : ['small loaded'],
    );
    api.remove(secret(of, 'culprit'));
    api.remove(account(of, 'culprit', []));
    api.put(secret('team-a', 'pull', 'u:third'));
    await eventually(() => expect(kept.password('team-a')).toContain('third'));
    await eventually(() => expect(source.passedOver).toEqual([]));
  });

  it('may be a Namespace, which still is a tenant', async () => {
    api.put({ ...namespace('team-c'), metadata: huge });
    api.put(secret('team-c', 'pull'));
    await start();
    expect(kept.secrets('team-c')).toEqual(['pull loaded']);
  });

  it('keeps its last good content, like a malformed Secret, and ends when it is removed', async () => {
    await start();
    const { uid } = kept.tenants.get('team-a') ?? {};
    api.put({ ...secret('team-a', 'pull', 'u:second'), metadata: huge });
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['pull malformed']));
    expect(kept.tenants.get('team-a')?.uid).toBe(uid);
    api.remove(secret('team-a', 'pull'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual([]));
  });

  it('in pages is requested again in smaller ones, down to one object', async () => {
    for (let at = 0; at < 6; at += 1) {
      api.put({ ...secret('team-b', `culprit-${at}`), metadata: huge });
    }
    api.put(secret('team-b', 'z-last'));
    await start();
    // A start waits for one namespace for a while only.
    await eventually(() => expect(kept.secrets('team-b')?.at(-1)).toBe('z-last loaded'));
    expect(kept.secrets('team-b')?.length).toBe(7);
    const limits = api.requests.flatMap(target =>
      target.includes('/team-b/secrets')
        ? [...target.matchAll(/limit=(\d+)/g)].map(([, limit]) => Number(limit))
        : [],
    );
    expect(Math.min(...limits)).toBe(1);
  }, 30_000);

  it('together with others in one namespace does not affect other namespaces', async () => {
    const text = 'x'.repeat(900_000);
    for (let at = 0; at < 6; at += 1) api.put({ ...secret('team-b', `s-${at}`), annotations: { text } });
    await start();
    expect(kept.secrets('team-b')?.map(line => line.split(' ')[1])).toEqual([
      'loaded',
      'loaded',
      'loaded',
      'loaded',
      'malformed',
      'malformed',
    ]);
    expect(kept.password('team-a')).toContain('first');
    expect(source.passedOver.map(({ name, reason }) => [name, reason])).toEqual([
      ['s-4', expect.stringContaining('in total')],
      ['s-5', expect.stringContaining('in total')],
    ]);
  });

  it("in no tenant's namespace is never listed", async () => {
    for (let at = 0; at < 20; at += 1) api.put(secret('other', `s-${at}`));
    await start();
    const whole = api.requests.filter(
      target => !target.includes('watch=') && !target.includes('/namespaces'),
    );
    expect(whole.length).toBe(3);
    expect(whole.every(target => target.includes('limit=1'))).toBe(true);
    expect(api.requests.some(target => target.includes('/namespaces/other'))).toBe(false);
    api.put(namespace('other'));
    await eventually(() => expect(kept.secrets('other')?.length).toBe(20));
  });
});

it('a watch that cannot get past a version is followed by a new list', async () => {
  api.put(namespace('team-a'));
  api.put(secret('team-a', 'pull', 'u:first'));
  await start({ clock: new ManualClock().skipWaits(MAX_BACKOFF_MS) });
  await eventually(() => expect(api.watches).toBe(4));
  api.muted.add('secrets');
  api.put(secret('team-a', 'pull', 'u:second'));
  api.breakWatches('secrets', '{"type":"MODIFIED","object":{"metadata":{}}}\n');
  await eventually(() => expect(kept.password('team-a')).toContain('second'));
  await eventually(() => expect(down).toBe(0));
  expect(lines.some(line => line.includes('listing again'))).toBe(true);
});

describe('a cluster that cannot be reached at the start', () => {
  let folder: string;
  const known: readonly KnownTenant[] = [{ name: 'team-a', uid: 'uid-a' }];

  /** A start on what former starts have kept. */
  async function startOnSeen(options: Partial<KubernetesSourceOptions> = {}): Promise<void> {
    kept = new Kept();
    lines = [];
    await start({ seen: await SeenCluster.open({ folder, log }), recallForMs: 3_600_000, ...options }, known);
  }

  beforeEach(async () => {
    folder = await makeTempFolder('seen');
    api.put({ ...namespace('team-a'), uid: 'uid-a' });
    api.put(secret('team-a', 'pull', 'u:first'));
    api.put({ ...account('team-a', 'default', ['pull']), uid: 'account' });
    await startOnSeen();
    await vi.waitUntil(() => kept.password('team-a')?.includes('first'), WITHIN);
    await source.close();
  });

  afterEach(() => removeFolder(folder));

  it('has its last known state, which is logged once, and no Secret is malformed because of that', async () => {
    const { port } = api;
    await api.close();
    await startOnSeen();
    expect(kept.password('team-a')).toContain('first');
    expect(kept.tenants.get('team-a')?.uid).toBe('uid-a');
    expect(source.hasAccount('team-a', 'account')).toBe(true);
    expect(source.recalledAtMs).toBeGreaterThan(0);
    expect(lines.filter(line => line.includes('its last known state stays in force')).length).toBe(1);
    expect(lines.join()).not.toContain('malformed');

    api.put(secret('team-a', 'pull', 'u:second'));
    api.remove(account('team-a', 'default', []));
    await api.listen(port);
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    await eventually(() => expect(source.hasAccount('team-a', 'account')).toBe(false));
    expect(source.recalledAtMs).toBeUndefined();
  });

  it('loses what was deleted meanwhile with the first list', async () => {
    const { port } = api;
    await api.close();
    api.remove(namespace('team-a'));
    await startOnSeen();
    expect(kept.password('team-a')).toContain('first');
    await api.listen(port);
    await eventually(() => expect([...kept.tenants.keys()]).toEqual([]));
    await source.close();
    await api.close();
    await startOnSeen();
    expect(kept.secrets('team-a')).toEqual(['of the namespace unread']);
  });

  it('loses what was deleted meanwhile, even if Secrets and accounts can be listed long before namespaces', async () => {
    const { port } = api;
    await api.close();
    api.remove(namespace('team-a'));
    await startOnSeen();
    expect(kept.password('team-a')).toContain('first');
    const release = api.hold('/api/v1/namespaces');
    const before = api.watches;
    await api.listen(port);
    await eventually(() => expect(api.watches - before).toBe(3));
    // Longer than changes are collected before they take effect.
    await new Promise(resolve => setTimeout(resolve, 200));
    release();
    await eventually(() => expect([...kept.tenants.keys()]).toEqual([]));
  });

  it('has no tenants if its last known state is too old, or another namespace was adopted meanwhile', async () => {
    await api.close();
    await startOnSeen({ clock: new ManualClock(Date.now() + 3_700_000) });
    expect(kept.secrets('team-a')).toEqual(['of the namespace unread']);
    await source.close();
    await start({ seen: await SeenCluster.open({ folder, log }) }, [{ name: 'team-a', uid: 'other' }]);
    expect(kept.secrets('team-a')).toEqual(['of the namespace unread']);
  });
});

describe('a list of namespaces that arrives during the start', () => {
  it('ends known tenants that it lacks, also those that were put before it', async () => {
    const uid = api.put(namespace('team-b'));
    api.refused.set('/api/v1/namespaces', 500);
    const release = api.hold('/api/v1/namespaces/team-b/secrets');
    const known = ['team-a', 'team-b'].map(name => ({ name, uid }));
    const starting = start({}, known);
    await eventually(() => expect([...kept.tenants.keys()]).toEqual(['team-a']));
    api.refused.clear();
    await eventually(() => expect(api.watches).toBe(4));
    release();
    await starting;
    await eventually(() => expect([...kept.tenants.keys()]).toEqual(['team-b']));
  });
});

describe('an account with too few rights', () => {
  it.each([
    ['/api/v1/secrets', ['of the namespace unread']],
    ['/api/v1/serviceaccounts', ['a loaded', 'b loaded']],
  ])('of %s says so, and has what it may read', async (path, expected) => {
    api.put(namespace('team-a'));
    api.put(secret('team-a', 'a'));
    api.put(secret('team-a', 'b'));
    api.put(account('team-a', 'default', ['b']));
    api.refused.set(path, 403);
    await start();
    expect(kept.secrets('team-a')).toEqual(expected);
    expect(lines.some(line => line.includes(`${path} is forbidden`))).toBe(true);
    api.refused.delete(path);
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['b loaded', 'a loaded']));
  });

  it('in a single namespace changes nothing there until it may read', async () => {
    api.put(namespace('team-a'));
    api.put(secret('team-a', 'pull', 'u:first'));
    await start();
    api.refused.set('/api/v1/namespaces/team-a', 403);
    api.put(secret('team-a', 'pull', 'u:second'));
    await eventually(() => expect(lines.some(line => line.includes('cannot be read'))).toBe(true));
    expect(kept.password('team-a')).toContain('first');
    expect(source.problems.join()).toMatch(/^namespaces of .*\/namespaces\/team-a is forbidden$/);
    expect(down).toBe(1);
    api.refused.clear();
    await eventually(() => expect(kept.password('team-a')).toContain('second'));
    await eventually(() => expect(down).toBe(0));
  });

  it('sends the new token when its file was renewed', async () => {
    api.put(namespace('team-a'));
    let token = 'old';
    api.token = 'old';
    await start({ client: new KubeClient({ server: api.url, token: () => Promise.resolve(token) }) });
    api.token = 'new';
    token = 'new';
    api.endWatches();
    api.put(secret('team-a', 'pull'));
    await eventually(() => expect(kept.secrets('team-a')).toEqual(['pull loaded']));
  });
});

describe('accounts', () => {
  it('are known by namespace and UID', async () => {
    api.put(namespace('team-a'));
    const uid = api.put(account('team-a', 'robot', []));
    await start();
    expect(source.hasAccount('team-a', uid)).toBe(true);
    expect(source.hasAccount('team-a', 'other')).toBe(false);
    expect(source.hasAccount('team-b', uid)).toBe(false);
    const next = api.put(account('team-a', 'other', []));
    expect(source.hasAccount('team-a', next)).toBe(false);
    await eventually(() => expect(source.hasAccount('team-a', next)).toBe(true));
    api.remove(account('team-a', 'robot', []));
    await eventually(() => expect(source.hasAccount('team-a', uid)).toBe(false));
  });

  it('may push if the Namespace is annotated, and only as long as it is', async () => {
    api.put({ ...namespace('team-a'), ...annotated('none') });
    api.put({ ...account('team-a', 'default', []), ...annotated('serviceAccounts') });
    await start();
    expect(kept.tenants.get('team-a')?.accountsMayPush).toBe(false);
    api.put({ ...namespace('team-a'), ...annotated('serviceAccounts') });
    await eventually(() => expect(kept.tenants.get('team-a')?.accountsMayPush).toBe(true));
    api.put(namespace('team-a'));
    await eventually(() => expect(kept.tenants.get('team-a')?.accountsMayPush).toBe(false));
  });

  it('may push everywhere if the configuration says so', async () => {
    api.put(namespace('team-a'));
    await start({ accountsMayPush: true });
    expect(kept.tenants.get('team-a')?.accountsMayPush).toBe(true);
  });

  it('of a namespace that was created again count for the new one only', async () => {
    api.put(namespace('team-a'));
    await start();
    api.muted.add('namespaces');
    api.remove(namespace('team-a'));
    const other = api.put({ ...namespace('team-a'), uid: 'another' });
    const uid = api.put(account('team-a', 'robot', []));
    await eventually(() => expect(source.hasAccount('team-a', uid)).toBe(true));
    expect(kept.tenants.get('team-a')?.uid).toBe(other);
  });

  it('have an issuer only if the server publishes it', async () => {
    await start();
    await expect(
      readClusterIssuer({ read: () => Promise.resolve({ issuer: '', keys: [] }) }),
    ).rejects.toThrow('does not publish the issuer');
  });
});
