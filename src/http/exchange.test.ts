import http from 'node:http';
import net from 'node:net';
import { expect, it } from 'vitest';
import { Presence } from '../lib/lease.ts';
import { Deadlines } from './deadlines.ts';
import { Exchange } from './exchange.ts';
import { parseQuery } from './query.ts';

function actorWith(host: string, userAgent: string) {
  const req = new http.IncomingMessage(new net.Socket());
  req.headers = { host, 'user-agent': userAgent };
  const exchange = new Exchange({
    req,
    res: new http.ServerResponse(req),
    query: parseQuery(''),
    sender: {
      connection: req.socket,
      authorization: undefined,
      remote: '192.0.2.7',
      secure: false,
      loopback: false,
      host,
      upstreamListener: undefined,
      byHostAlias: false,
      byNamespace: false,
    },
    during: new Presence(),
    isStopping: () => false,
    deadlines: new Deadlines(1_000),
  });
  return exchange.actor;
}

it('tells receivers of notifications who sent a request, and no more of a header than they have use for', () => {
  expect(actorWith('registry.example:5000', 'containerd/2.1.4')).toMatchObject({
    host: 'registry.example:5000',
    userAgent: 'containerd/2.1.4',
  });
  const { host, userAgent } = actorWith('h'.repeat(30_000), '\u00e9'.repeat(30_000));
  expect(host).toBe('h'.repeat(260));
  expect(userAgent).toBe('\u00e9'.repeat(256));
});
