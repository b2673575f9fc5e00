import { unreadableReason } from '../blobs/unreadable.ts';
import { stopCollectingAfterRebuild, whyNotCollected } from '../metadata/store-identity.ts';
import type { Digest } from '../oci/digest.ts';
import type { Progress, Stores } from './stores.ts';

export interface RebuildRun {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  /** Called for each file whose content does not match its name. */
  readonly onDamaged: (digest: Digest, reason: string) => void;
}

/** The result of a rebuild. */
export interface RebuildReport {
  /** Blobs that were added to the index. */
  readonly added: number;
  readonly addedBytes: number;
  readonly known: number;
  /** Files whose content does not match their names; they are left in place. */
  readonly damaged: number;
  /** Whether garbage is collected again only after `entrepot gc --force`. */
  readonly isCollectingStopped: boolean;
}

/**
 * Adds rows for stored blobs that the index does not know, after verifying each against its digest. Deletes nothing,
 * and stops garbage collection at the first: a blob without a Link looks like garbage until a client requests it. May be
 * interrupted and run again.
 */
export async function rebuildIndex(
  { metadata, blobs }: Pick<Stores, 'metadata' | 'blobs'>,
  { signal, onProgress, onDamaged }: RebuildRun,
): Promise<RebuildReport> {
  const report = { added: 0, addedBytes: 0, known: 0, damaged: 0, isCollectingStopped: false };
  const stopCollecting = async () => {
    await stopCollectingAfterRebuild(metadata);
    report.isCollectingStopped = true;
  };
  // What else stopped it, such as a new index, has now been dealt with: only `gc --force` is left to do.
  if ((await whyNotCollected(metadata)) !== undefined) await stopCollecting();
  for await (const { digest, size, key } of blobs.list()) {
    signal.throwIfAborted();
    if ((await metadata.statBlob(digest)) !== undefined) {
      report.known += 1;
      continue;
    }
    // Before it is verified, so that it is not collected meanwhile.
    if (!report.isCollectingStopped) await stopCollecting();
    const fault = await faultOf(blobs, { digest, key }, signal);
    if (fault === undefined) {
      await (key === undefined
        ? metadata.putBlob(digest, size)
        : metadata.putFoundBlob({ digest, key }, size));
      report.added += 1;
      report.addedBytes += size;
    } else {
      report.damaged += 1;
      onDamaged(digest, fault);
    }
    onProgress({ step: 'blobs found', items: report.added, bytes: report.addedBytes });
  }
  return report;
}

async function faultOf(
  blobs: Stores['blobs'],
  { digest, key }: { readonly digest: Digest; readonly key: string | undefined },
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    const actual = await blobs.rehash(digest, { bytesPerSecond: 0, key, signal });
    return actual === digest ? undefined : 'its content does not match the digest';
  } catch (error) {
    const reason = unreadableReason(error);
    if (reason === undefined) throw error;
    return reason;
  }
}
