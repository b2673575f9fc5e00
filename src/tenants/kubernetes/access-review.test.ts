import { createServer, type Server } from 'node:http';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { collectBytes } from '../../lib/collect-bytes.ts';
import { loadHttpClient } from '../../lib/http-client.ts';
import { AccessReview } from './access-review.ts';
import { KubeClient, KubeRefusal } from './kube-client.ts';

/** Who sends the tokens. */
const NODE = '192.0.2.1';

/** What the server was asked, as JSON. */
let asked: { readonly path: string; readonly spec: Record<string, unknown> }[];
let server: Server;
let client: KubeClient;
let isForbidden: boolean;
/** What the server waits for before it answers. */
let judging: Promise<unknown> | undefined;

beforeEach(async () => {
  await loadHttpClient();
  asked = [];
  isForbidden = false;
  judging = undefined;
  server = createServer((req, res) => {
    void (async () => {
      const { spec } = JSON.parse((await collectBytes(req, 100_000, () => new Error('too long'))).toString());
      asked.push({ path: req.url ?? '', spec });
      await judging;
      const user = { username: 'jane', uid: '1', groups: ['ops', 'system:authenticated'] };
      const status =
        'token' in spec
          ? { authenticated: spec.token === 'good', ...(spec.token === 'good' && { user }) }
          : { allowed: spec.nonResourceAttributes.verb === 'get' };
      res.writeHead(isForbidden ? 403 : 201, { 'content-type': 'application/json' });
      res.end(JSON.stringify(isForbidden ? { message: 'tokenreviews is forbidden' } : { status }));
    })();
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  client = new KubeClient({ server: new URL(`http://127.0.0.1:${port}`), token: async () => 'own' });
});

afterEach(async () => {
  await client.close();
  server.closeAllConnections();
  await new Promise(resolve => server.close(resolve));
});

it('asks whom a token identifies, and what he may do, once for all who ask at the same time', async () => {
  const reviews = new AccessReview(client, '/entrepot/admin', ['get', 'post']);
  const [one, other] = await Promise.all([reviews.review('good', NODE), reviews.review('good', NODE)]);
  expect(one).toEqual({ user: 'jane', verbs: new Set(['get']) });
  expect(other).toEqual(one);
  expect(await reviews.review('good', NODE)).toEqual(one);
  expect(asked).toHaveLength(3);
  expect(asked[0]).toEqual({ path: '/apis/authentication.k8s.io/v1/tokenreviews', spec: { token: 'good' } });
  const review = { user: 'jane', uid: '1', groups: ['ops', 'system:authenticated'] };
  for (const verb of ['get', 'post']) {
    expect(asked).toContainEqual({
      path: '/apis/authorization.k8s.io/v1/subjectaccessreviews',
      spec: { ...review, nonResourceAttributes: { path: '/entrepot/admin', verb } },
    });
  }
});

it('asks nothing more about a token that is not accepted', async () => {
  const reviews = new AccessReview(client, '/entrepot/admin', ['get']);
  expect(await reviews.review('bad', NODE)).toBeUndefined();
  expect(await reviews.review('bad', NODE)).toBeUndefined();
  expect(asked).toHaveLength(1);
});

it('does not remember that it could not ask', async () => {
  const reviews = new AccessReview(client, '/entrepot/admin', ['get']);
  isForbidden = true;
  await expect(reviews.review('good', NODE)).rejects.toThrow(KubeRefusal);
  isForbidden = false;
  expect(await reviews.review('good', NODE)).toMatchObject({ user: 'jane' });
});

it('lets nobody who makes up tokens keep out others while the cluster judges them', async () => {
  const reviews = new AccessReview(client, '/entrepot/admin', ['get']);
  await reviews.review('good', NODE);
  asked = [];
  let judge: ((value?: unknown) => void) | undefined;
  judging = new Promise(resolve => void (judge = resolve));
  const madeUp = Array.from({ length: 100 }, (_, at) => reviews.review(`made up ${at}`, '192.0.2.66'));
  const outcomes = Promise.allSettled(madeUp);
  const other = reviews.review('other', NODE);
  await expect.poll(() => asked.map(({ spec }) => spec['token'])).toContain('other');
  expect(asked).toHaveLength(5);
  // Those that were judged need not be judged again.
  expect(await reviews.review('good', NODE)).toMatchObject({ user: 'jane' });
  judge?.();
  expect(await other).toBeUndefined();
  const refused = (await outcomes).filter(({ status }) => status === 'rejected');
  expect(refused).toHaveLength(88);
  for (const one of refused) expect(one).toMatchObject({ reason: { name: 'SlotsFull' } });
});
