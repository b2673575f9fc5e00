import { hash } from 'node:crypto';
import { type Digest, digestAlgorithm, digestHex } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';
import type { DamagedBytes } from './metadata-store.ts';

/** Hashing this much takes a few microseconds, compared to a hundred for a response, so it is always done. */
const ALWAYS_BYTES = 8 * 1024;

/** Larger manifests are few; this many digests take about 10 KB. */
const MAX_REMEMBERED = 100;

/**
 * A page that the disk damages later is noticed within twice this time, since pulls are answered from memory as long
 * (`pull-memory.ts`).
 */
export const REMEMBERED_FOR_MS = 60_000;

/**
 * Checks the bytes of manifests against their digests, since a disk may have damaged pages of the index. Manifests that
 * take longer to hash are checked once a minute.
 */
export class ManifestCheck {
  readonly #nowMs: () => number;
  /** When each was last found correct, oldest first. */
  readonly #checkedAtMs = new Map<Digest, number>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  isSound({ digest, bytes }: Pick<Manifest, 'digest' | 'bytes'>): boolean {
    if (bytes.byteLength <= ALWAYS_BYTES) {
      return hashes(bytes, digest);
    }
    const nowMs = this.#nowMs();
    if (nowMs - (this.#checkedAtMs.get(digest) ?? Number.NEGATIVE_INFINITY) < REMEMBERED_FOR_MS) {
      return true;
    }
    this.#checkedAtMs.delete(digest);
    const isSound = hashes(bytes, digest);
    if (isSound) {
      this.#remember(digest, nowMs);
    }
    return isSound;
  }

  #remember(digest: Digest, nowMs: number): void {
    for (const oldest of this.#checkedAtMs.keys()) {
      if (this.#checkedAtMs.size < MAX_REMEMBERED) break;
      this.#checkedAtMs.delete(oldest);
    }
    this.#checkedAtMs.set(digest, nowMs);
  }
}

/** The bytes of a manifest that do not match its digest: those that were stored since may do so. */
export function damagedManifest(digest: Digest): DamagedBytes {
  return {
    isSame: stored => stored !== undefined && !hashes(stored, digest),
    takeAway: () => undefined,
  };
}

function hashes(bytes: Uint8Array, digest: Digest): boolean {
  return hash(digestAlgorithm(digest), bytes, 'hex') === digestHex(digest);
}
