import { describe, expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { partialStatus } from './partials.ts';

const digests = Array.from({ length: 2 }, (_, at) => digestOf(Buffer.from(String(at))));

describe('layers of which some is there', () => {
  const [digest = digestOf(Buffer.alloc(0)), another = digest] = digests;
  const repository = 'docker.io/library/app';
  const onDisk = {
    kind: 'ranges' as const,
    digest,
    repository,
    bytes: 400,
    size: 9_000,
    readers: 0,
    usedAtMs: 0,
    isOpen: false,
  };
  const open = { ...onDisk, isOpen: true };
  const listed = {
    kind: 'ranges',
    digest,
    repository,
    bytes: 400,
    size: 9_000,
    readers: 0,
    lastUsed: '1970-01-01T00:00:00.000Z',
  };
  const download = {
    kind: 'whole' as const,
    repository,
    digest,
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
      { partials: [{ ...open, readers: 1, usedAtMs: 1 }] },
      { partials: [{ ...open, bytes: 0, readers: 2 }] },
    ];
    expect(partialStatus([main, ...readers], [])).toEqual([
      { ...listed, readers: 3, lastUsed: '1970-01-01T00:00:00.001Z' },
    ]);
  });

  it('are not listed while they are downloaded as a whole', () => {
    const own = { partials: [{ ...open, readers: 1 }] };
    expect(partialStatus([own], [download])).toEqual([]);
    expect(partialStatus([own], [{ ...download, kind: 'ranges' as const }]).length).toBe(1);
    expect(partialStatus([own], [{ ...download, kind: 'streamed' as const }]).length).toBe(1);
    expect(partialStatus([own], [{ ...download, digest: another }]).length).toBe(1);
  });

  it('are listed with a download of the same that was interrupted', () => {
    const own = { partials: [onDisk, { ...onDisk, kind: 'download' as const, repository: undefined }] };
    expect(partialStatus([own], [])).toEqual([listed, { ...listed, kind: 'download', repository: null }]);
  });
});
