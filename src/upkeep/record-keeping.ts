import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecordStore } from '../blobs/record-store.ts';
import type { Lease } from '../lib/lease.ts';
import type { HostedImage, UnrecordedImage } from '../metadata/image-record.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { mayBeIncomplete } from '../metadata/store-identity.ts';
import type { Digest } from '../oci/digest.ts';
import { ImageRecordStore } from './image-records.ts';
import { PAUSE_MS } from './steps.ts';

/** The setting of an index with the token of the records that are of it; '' or absent if there are none. */
export const RECORDS = 'image-records';

const AT_ONCE = 10;
/** More are not counted: after a restore there may be a million. */
const MAX_COUNTED = 10_000;

/** How far records are behind the index. */
export interface RecordLag {
  /** Images whose records are out of date; at most 10,000 are counted. */
  readonly waiting: number;
  /** How long one of them has been seen to wait; 0 if none waits. */
  readonly seconds: number;
}

/**
 * Keeps the records of hosted images up to date with the index, which lists those that have to be written again, so that none is
 * forgotten, however often it fails. One process at a time does this. While the index may be incomplete, records stay as they
 * are: they may say what it lacks.
 */
export class RecordKeeping {
  readonly #metadata: MetadataStore;
  readonly #records: ImageRecordStore;
  #isOfIndex = false;
  /** Where the next run begins, after one that has ended early. */
  #after: HostedImage | undefined;
  /** One that waits, and since when that is known. */
  #seen: { readonly image: HostedImage; readonly sinceMs: number } | undefined;

  constructor({
    metadata,
    records,
  }: {
    readonly metadata: MetadataStore;
    readonly records: RecordStore;
  }) {
    this.#metadata = metadata;
    this.#records = new ImageRecordStore(records);
  }

  /** Whether there is anything to do: one to three queries. */
  async isDue(): Promise<boolean> {
    const isBehind = await this.#look();
    if (!isBehind && (this.#isOfIndex || !(await this.#hasImages()))) return false;
    return !(await mayBeIncomplete(this.#metadata));
  }

  async lag(): Promise<RecordLag> {
    const waiting = (await this.#look()) ? await this.#metadata.countUnrecorded(MAX_COUNTED) : 0;
    const seconds = this.#seen === undefined ? 0 : (performance.now() - this.#seen.sinceMs) / 1000;
    return { waiting, seconds: waiting === 0 ? 0 : seconds };
  }

  /**
   * Keeps the records of all images that are not recorded, each in its turn: one that fails keeps no other waiting. Rejects
   * with the first error at the end, or as soon as none of a step can be kept; the next run continues after that. Pauses for as
   * long as it works: pushes use the same disk.
   */
  async run(signal?: AbortSignal): Promise<void> {
    if ((await mayBeIncomplete(this.#metadata)) || !(await this.#beginWith())) return;
    if (this.#after !== undefined) await this.#pass(signal);
    await this.#pass(signal);
  }

  async #pass(signal: AbortSignal | undefined): Promise<void> {
    let failure: { readonly error: unknown } | undefined;
    for (;;) {
      signal?.throwIfAborted();
      const fromMs = performance.now();
      const images = await this.#metadata.listUnrecorded(AT_ONCE, this.#after);
      this.#after = images.length < AT_ONCE ? undefined : images.at(-1);
      const outcomes = await Promise.allSettled(images.map(image => this.#keep(image)));
      const failures = outcomes.flatMap(each => (each.status === 'rejected' ? { error: each.reason } : []));
      failure ??= failures[0];
      const isAway = images.length > 0 && failures.length === images.length;
      if (this.#after === undefined || isAway) break;
      await sleep(Math.max(PAUSE_MS, performance.now() - fromMs), undefined, { signal });
    }
    if (failure !== undefined) throw failure.error;
  }

  /**
   * Whether any image waits. Watches one of them until it waits no more, and then the next in order: so in the end the one that
   * does not get its turn.
   */
  async #look(): Promise<boolean> {
    const { image } = this.#seen ?? {};
    if (image !== undefined && (await this.#metadata.isUnrecorded(image))) return true;
    const [next] = await this.#metadata.listUnrecorded(1, image);
    const [first] =
      next === undefined && image !== undefined ? await this.#metadata.listUnrecorded(1) : [next];
    this.#seen = first && { image: first, sinceMs: performance.now() };
    return first !== undefined;
  }

  /**
   * Removes records of images that the index does not have, and then does what `run` does. `lease`: that of the collection
   * that this is part of. Rejects with LeaseLost once a rebuild has taken over, which still needs the records.
   */
  async sweep({ signal, lease }: { readonly signal?: AbortSignal | undefined; readonly lease?: Lease } = {}) {
    if (await mayBeIncomplete(this.#metadata)) return;
    for await (const image of this.#records.images()) {
      signal?.throwIfAborted();
      if ((await this.#metadata.readImageRecord(image)) === undefined) {
        await lease?.confirm();
        await this.#metadata.noteUnrecorded([image]);
      }
    }
    await this.run(signal);
    for await (const digest of this.#records.manifests()) {
      signal?.throwIfAborted();
      await lease?.confirm();
      await this.#removeUnneeded(digest);
    }
  }

  /**
   * Makes sure that the records are of this index. Others, or none, have to be kept of all images: the index is of an older
   * version, was restored, or was moved here. False if there are no hosted images at all.
   */
  async #beginWith(): Promise<boolean> {
    if (this.#isOfIndex) return true;
    const metadata = this.#metadata;
    const own = await metadata.readSetting(RECORDS);
    // A store that only mirrors gets no file.
    if (!own && !(await this.isDue())) return false;
    if (!own || (await this.#records.readState()) !== own) {
      for (let next = await metadata.noteAllUnrecorded(); next !== undefined; ) {
        await sleep(PAUSE_MS);
        next = await metadata.noteAllUnrecorded(next);
      }
      const state = randomUUID();
      await metadata.putSetting(RECORDS, state);
      await this.#records.putState(state);
    }
    this.#isOfIndex = true;
    return true;
  }

  async #hasImages(): Promise<boolean> {
    return (await this.#metadata.listRepositories('', { limit: 1, after: undefined })).entries.length > 0;
  }

  async #keep(image: UnrecordedImage): Promise<void> {
    const record = await this.#metadata.readImageRecord(image);
    if (record === undefined) {
      await this.#records.remove(image);
      await this.#removeUnneeded(image.digest);
    } else {
      await this.#putManifest(image);
      await this.#records.put(image, record);
    }
    await this.#metadata.noteRecorded(image);
  }

  /** Damaged bytes are absent: those that were kept before may be the only ones that are intact. */
  async #putManifest({ digest }: Pick<HostedImage, 'digest'>): Promise<void> {
    const bytes = await this.#metadata.readManifestBytes(digest);
    if (bytes !== undefined) await this.#records.putManifest(digest, bytes);
  }

  async #removeUnneeded(digest: Digest): Promise<void> {
    if (await this.#metadata.isHostedManifest(digest)) return;
    await this.#records.removeManifest(digest);
    // A process that was suspended in between has removed what another one has kept since.
    if (await this.#metadata.isHostedManifest(digest)) await this.#putManifest({ digest });
  }
}
