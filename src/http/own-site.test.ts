import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { OwnSite } from './own-site.ts';

type Headers = Readonly<Record<string, string>>;

/** Whether a request with these headers may change something. */
function may(site: OwnSite, headers: Headers, isProxied = false): boolean {
  const req = new IncomingMessage(new Socket());
  Object.assign(req.headers, headers);
  return site.problem(req, isProxied) === undefined;
}

const local = new OwnSite({ names: ['registry.example:5000', '127.0.0.1'], isClosed: true });
const reachable = new OwnSite({ names: [], isClosed: false });

describe.each([
  ['a port of this machine alone', local],
  ['a port that others reach', reachable],
])('%s', (_port, site) => {
  it.each([
    ['a page of another site', { host: 'localhost:5000', 'sec-fetch-site': 'cross-site' }],
    ['a page on another port of this machine', { host: 'localhost:5000', 'sec-fetch-site': 'same-site' }],
    ['an old browser’s page', { host: 'localhost:5000', origin: 'https://evil.example' }],
    ['an old browser’s page on another port', { host: 'localhost:5000', origin: 'http://localhost:3000' }],
    ['a page without an origin of its own', { host: 'localhost:5000', origin: 'null' }],
    [
      'a page whose name was given our address',
      { host: 'evil.example:5000', origin: 'http://evil.example:5000' },
    ],
    ['the same, as a browser says it', { host: 'evil.example:5000', 'sec-fetch-site': 'same-origin' }],
    [
      'a page of an address that is not the one it asks',
      { host: '192.0.2.1:5000', origin: 'http://192.0.2.2' },
    ],
  ])('refuses %s', (_what, headers: Headers) => {
    expect(may(site, headers)).toBe(false);
  });

  it.each([
    ['a client by a loopback name', { host: 'localhost:5000' }],
    ['a client by the loopback’s IPv6 address', { host: '[::1]:5000' }],
    ['a client by the machine’s address', { host: '192.0.2.1:5000' }],
    [
      'our own page',
      { host: 'localhost:5000', origin: 'http://localhost:5000', 'sec-fetch-site': 'same-origin' },
    ],
    ['what a person typed into a browser', { host: '127.0.0.1:5000', 'sec-fetch-site': 'none' }],
  ])('lets %s change something', (_what, headers: Headers) => {
    expect(may(site, headers)).toBe(true);
  });
});

it('an unknown name is refused on a closed port, and accepted on an open one', () => {
  expect(may(local, { host: 'evil.example:5000' })).toBe(false);
  expect(may(local, {})).toBe(false);
  expect(may(reachable, { host: 'build-machine:5000' })).toBe(true);
});

it('configured names count with any port, and in any spelling', () => {
  for (const host of ['registry.example:5000', 'registry.example', 'Registry.Example.:5443']) {
    expect(may(local, { host })).toBe(true);
  }
  expect(may(local, { host: 'registry.example:5000', origin: 'https://registry.example:5000' })).toBe(true);
  expect(may(local, { host: 'registry.example:5000', origin: 'https://registry.example:8443' })).toBe(false);
});

it('behind a trusted proxy Host is not checked, but the page’s origin is', () => {
  expect(may(local, { host: 'entrepot-backend' }, true)).toBe(true);
  const origin = 'https://registry.example:5000';
  expect(may(local, { host: 'entrepot-backend', origin }, true)).toBe(true);
  expect(may(local, { host: 'entrepot-backend', origin: 'http://entrepot-backend' }, true)).toBe(false);
  expect(may(local, { host: 'evil.example', origin: 'http://evil.example' }, true)).toBe(false);
});
