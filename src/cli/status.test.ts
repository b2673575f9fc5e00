import { expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { type StoreWideStatus, statusText } from './status.ts';

const saved = { sentBytes: 0, fetchedBytes: 0, savedBytes: 0, since: '2026-01-01T00:00:00Z' };
const store = {
  path: '/store',
  heldBytes: 0,
  unfinishedBytes: 0,
  maxBytes: null,
  freeBytes: 1,
  minFreeBytes: 1,
  bucket: null,
  local: null,
  damaged: 0,
  next: null,
  indexLost: false,
};
const document: StoreWideStatus = {
  pid: 17,
  started: '2026-01-01T00:00:00Z',
  processes: 1,
  servingPids: [],
  problems: [],
  downloads: [],
  downloadsElsewhere: [],
  partial: [],
  saved: { sinceStart: saved, inAll: saved },
  store,
  upstreams: [],
  replicas: [],
  secrets: [],
  servers: [],
};

it('says why it is not known what would be evicted next', () => {
  expect(statusText(document)).toContain('next to be evicted: not determined in time\n');
  const lost = statusText({ ...document, store: { ...store, indexLost: true } });
  expect(lost).toContain('next to be evicted: unknown, since the index is lost\n');
  expect(lost).not.toContain('in time');
});

it('names the server that the rest is about, which may not be the newest', () => {
  const servers = [18, 17].map(pid => ({ pid, servingPids: [], host: 'here', addresses: [], started: null }));
  expect(statusText({ ...document, servers, processes: 2 })).toContain('process 17 reported the above\n');
});

it('names the process that downloads what this server only follows', () => {
  const download = {
    repository: 'docker.io/library/nginx',
    digest: digestOf(Buffer.from('layer')),
    kind: 'whole' as const,
    state: 'downloading' as const,
    bytes: 512,
    size: 1024,
    readers: 1,
    requesters: ['anonymous'],
    started: '2026-01-01T00:00:00Z',
    holder: 'process 18 on node-1',
  };
  const ranges = { ...download, kind: 'ranges' as const, bytes: 256, holder: null };
  const text = statusText({ ...document, downloads: [download, { ...download, holder: null }, ranges] });
  expect(text).toMatch(/ranges of docker.io\/library\/nginx +256 B of 1\.0 KiB \(25 %\) +1 +anonymous/);
  expect(text).toMatch(/nginx +512 B of 1\.0 KiB \(50 %\) by process 18 on node-1 +1 +anonymous/);
  expect(text).toMatch(/nginx +512 B of 1\.0 KiB \(50 %\) +1 +anonymous/);
});

it('lists layers of which some is there', () => {
  const digest = digestOf(Buffer.from('layer'));
  const lastUsed = '2026-01-01T00:00:00.000Z';
  const ranges = { kind: 'ranges' as const, digest, repository: 'docker.io/library/nginx', lastUsed };
  const used = { ...ranges, bytes: 512, size: 1024, readers: 2 };
  const text = statusText({
    ...document,
    partial: [used, { ...used, kind: 'download', repository: null, size: null, readers: 0 }],
  });
  expect(text).toMatch(/nginx +ranges +512 B of 1\.0 KiB \(50 %\) +2 +2026.* sha256:/);
  expect(text).toMatch(/^- +interrupted download +512 B +0 +2026.* sha256:/m);
  expect(text).toContain('\nevicted before anything else, ranges first, unless somebody reads them\n');
  expect(statusText(document)).not.toContain('IN PARTS');
});

it('lists replicas, with why one of them cannot be asked', () => {
  const replica = {
    address: '10.0.7.12:5003',
    isOwn: true,
    state: 'reached' as const,
    since: '2026-01-01T00:00:00Z',
    reason: null,
    started: '2026-01-01T00:00:00Z',
    downloads: [digestOf(Buffer.from('layer'))],
  };
  const other = { ...replica, isOwn: false, address: '10.0.7.13:5003', started: null, downloads: [] };
  const replicas = [
    replica,
    { ...other, state: 'unreachable' as const, reason: 'key' as const },
    { ...other, state: 'unknown' as const },
  ];
  const text = statusText({ ...document, replicas });
  expect(text).toMatch(/^10\.0\.7\.12:5003 +this one +2026-01-01 +2026-01-01 +1$/m);
  expect(text).toMatch(/^10\.0\.7\.13:5003 +refuses our key or certificate +2026-01-01 +- +-$/m);
  expect(text).toMatch(/^10\.0\.7\.13:5003 +unknown /m);
  expect(statusText(document)).not.toContain('REPLICA');
  // Replicas also count as processes on the index.
  const servers = [{ pid: 17, servingPids: [], host: 'here', addresses: [], started: null }];
  expect(statusText({ ...document, replicas, servers, processes: 3 })).not.toContain('more on this store');
  expect(statusText({ ...document, replicas, servers, processes: 4 })).toContain('1 more on this store');
  const withGone = [...replicas, { ...other, state: 'gone' as const }];
  expect(statusText({ ...document, replicas: withGone, servers, processes: 4 })).toContain('1 more on this');
});
