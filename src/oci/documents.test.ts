import { describe, expect, it } from 'vitest';
import { DOCUMENT_WORK } from './document-work.ts';
import { documents } from './documents.ts';
import { OCI_INDEX, OCI_MANIFEST } from './media-types.ts';

const MIB = 1024 * 1024;

/** An index of about `bytes`, with an image for each of some platforms. */
function indexOf(bytes: number, seed = 'a'): Uint8Array {
  const manifests = Array.from({ length: 1000 }, (_, number) => ({
    mediaType: OCI_MANIFEST,
    digest: `sha256:${number.toString(16).padStart(64, '0')}`,
    size: 1000,
    platform: { os: 'linux', architecture: `cpu${number}` },
    annotations: { [seed]: seed.repeat(bytes / 1000) },
  }));
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
}

/** How often others get their turn until `work` is done. */
async function turnsDuring(work: Promise<unknown>): Promise<number> {
  let turns = 0;
  let isDone = false;
  const count = (): void => {
    turns += 1;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  await work;
  isDone = true;
  return turns;
}

describe('a large document', () => {
  it('does not block the event loop while it is read', async () => {
    const bytes = indexOf(3 * MIB);
    await documents.ask('view', bytes, OCI_INDEX);
    expect(await turnsDuring(documents.ask('view', bytes, OCI_INDEX))).toBeGreaterThan(10);
  });

  it('gives the same answers and errors as a small one', async () => {
    const platform = { os: 'linux', architecture: 'cpu7' };
    for (const bytes of [indexOf(1000), indexOf(MIB)]) {
      expect(await documents.ask('bestChild', bytes, OCI_INDEX, platform)).toEqual({
        mediaType: OCI_MANIFEST,
        digest: `sha256:${'7'.padStart(64, '0')}`,
        size: 1000,
        platform,
      });
      const wrong = documents.ask('view', bytes, OCI_MANIFEST);
      await expect(wrong).rejects.toMatchObject({ code: 'MANIFEST_INVALID', status: 400 });
    }
  });

  it('is refused for now while many others wait', async () => {
    const bytes = indexOf(MIB);
    const asked = Array.from({ length: 40 }, () => documents.ask('view', bytes, OCI_INDEX));
    const outcomes = await Promise.allSettled(asked);
    const refused = outcomes.flatMap(outcome => (outcome.status === 'rejected' ? [outcome.reason] : []));
    expect(refused).toHaveLength(8);
    expect(refused[0]).toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '5' } });
  });
});

describe('a page of descriptors', () => {
  it('ends early if entries are long, and the next one continues there', () => {
    const bytes = indexOf(3 * MIB);
    const seen: string[] = [];
    let pages = 0;
    for (let after: string | undefined, more = true; more; pages += 1) {
      const page = DOCUMENT_WORK.descriptors(bytes, OCI_INDEX, {
        artifactType: undefined,
        limit: 1000,
        after,
      });
      expect(JSON.stringify(page.entries).length).toBeLessThan(600 * 1024);
      seen.push(...page.entries.map(({ digest }) => digest));
      after = seen.at(-1);
      more = page.more;
    }
    expect([seen.length, new Set(seen).size]).toEqual([1000, 1000]);
    expect(pages).toBeGreaterThan(4);
  });
});
