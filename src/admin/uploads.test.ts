import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { uploadsDocument } from './uploads.ts';

function ingestOf(id: string, size: number) {
  return { name: id, key: `upload-${id}`, epoch: 1, isParts: false, size, modifiedAtMs: 1_000 };
}

it('lists each unfinished push once, and lets nobody know what would continue one', async () => {
  const uploads = Array.from({ length: 50 }, (_, at) => ({
    id: randomUUID(),
    repository: { upstream: '', name: 'hosted/app' },
    requester: 'team-a',
    startedAtMs: 1_000,
    // Ten in each millisecond, in an order that the index does not promise.
    touchedAtMs: 2_000 + Math.floor(at / 10),
  }));
  const parts = {
    metadata: { listUploads: async () => uploads },
    survey: { unfinished: async () => uploads.map(({ id }, at) => ingestOf(id, at)) },
  };
  const sizes: number[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next } = await uploadsDocument(parts, { after, limit: 7 });
    sizes.push(...entries.map(({ bytes }) => bytes));
    const told = `${JSON.stringify(entries)} ${Buffer.from(next ?? '', 'base64url').toString()}`;
    for (const { id } of uploads) expect(told).not.toContain(id);
    if (next === null) break;
    after = next;
  }
  expect(sizes.sort((one, other) => one - other)).toEqual(uploads.map((_, at) => at));
});
