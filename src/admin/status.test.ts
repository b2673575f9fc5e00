import { describe, expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { allPartials } from './status.ts';

const digests = Array.from({ length: 2 }, (_, at) => digestOf(Buffer.from(String(at))));

describe('layers that are read in parts', () => {
  const [digest = digestOf(Buffer.alloc(0)), another = digest] = digests;
  const repository = 'docker.io/library/app';
  const onDisk = { digest, repository: undefined, size: undefined, readers: 0 };
  const inUse = { digest, repository, size: 9_000 };
  const download = {
    repository,
    digest,
    kind: 'whole' as const,
    state: 'downloading' as const,
    bytes: 1,
    aheadBytes: 0,
    size: 9_000,
    readers: 1,
    requesters: ['anonymous'],
    startedAtMs: 0,
    holder: undefined,
  };

  it('are listed once, however many processes read them', () => {
    const main = { partials: [0, 400].map(bytes => ({ ...onDisk, bytes })) };
    const readers = [
      { partials: [{ ...inUse, bytes: 400, readers: 1 }] },
      { partials: [{ ...inUse, bytes: 0, readers: 2 }] },
    ];
    expect(allPartials([main, ...readers], [])).toEqual([{ ...inUse, bytes: 400, readers: 3 }]);
  });

  it('are not listed while they are downloaded as a whole', () => {
    const own = { partials: [{ ...inUse, bytes: 400, readers: 1 }] };
    expect(allPartials([own], [download])).toEqual([]);
    expect(allPartials([own], [{ ...download, digest: another }]).length).toBe(1);
  });
});
