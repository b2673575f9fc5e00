import { createServer, type Server } from 'node:http';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { collectBytes } from '../../lib/collect-bytes.ts';
import { loadHttpClient } from '../../lib/http-client.ts';
import { AccessReview } from './access-review.ts';
import { KubeClient, KubeRefusal } from './kube-client.ts';

/** What the server was asked, as JSON. */
let asked: { readonly path: string; readonly spec: Record<string, unknown> }[];
let server: Server;
let client: KubeClient;
let isForbidden: boolean;

beforeEach(async () => {
  await loadHttpClient();
  asked = [];
  isForbidden = false;
  server = createServer((req, res) => {
    void (async () => {
      const { spec } = JSON.parse((await collectBytes(req, 100_000, () => new Error('too long'))).toString());
      asked.push({ path: req.url ?? '', spec });
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
  const [one, other] = await Promise.all([reviews.review('good'), reviews.review('good')]);
  expect(one).toEqual({ user: 'jane', verbs: new Set(['get']) });
  expect(other).toEqual(one);
  expect(await reviews.review('good')).toEqual(one);
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
  expect(await reviews.review('bad')).toBeUndefined();
  expect(await reviews.review('bad')).toBeUndefined();
  expect(asked).toHaveLength(1);
});

it('does not remember that it could not ask', async () => {
  const reviews = new AccessReview(client, '/entrepot/admin', ['get']);
  isForbidden = true;
  await expect(reviews.review('good')).rejects.toThrow(KubeRefusal);
  isForbidden = false;
  expect(await reviews.review('good')).toMatchObject({ user: 'jane' });
});
