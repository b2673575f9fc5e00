import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease, Presence } from '../lib/lease.ts';
import { KEPT_WAITING_MS } from '../metadata/outbox.ts';
import { resumeCollecting, stopCollecting, stopFor, whyNotCollected } from '../metadata/store-identity.ts';
import { everything, type Found, type SizedContent } from '../metadata/survey.ts';
import { settleLinks, settleUses } from './clock.ts';
import { CollectingStopped, requireCollecting } from './collecting-stopped.ts';
import { removeContents } from './removal.ts';
import { abandonIngest } from './unfinished.ts';
import { inSteps, PAUSE_MS } from './steps.ts';
import {
  Counter,
  type Ingests,
  type RunOptions,
  type Stores,
  type StrayFile,
  type StrayFiles,
  type Tally,
} from './stores.ts';

export interface CollectionOptions extends Stores, Ingests {
  /** Content that was created or used within this time is kept, needed or not: its manifest may follow. */
  readonly gracePeriodMs: number;
  /** How long unfinished downloads and uploads are kept, so that they can be resumed. */
  readonly keepUnfinishedMs: number;
  /** For how long a Grant may possibly be valid. */
  readonly keepGrantsMs: number;
  /** Uploads, which belong to `hosted`: ends those that were not used since, or finds them. */
  readonly uploads: {
    expire(untouchedSinceMs: number, signal?: AbortSignal): Promise<Tally>;
    expirable(untouchedSinceMs: number): Promise<Tally>;
  };
}

export interface CollectionRun extends RunOptions {
  /** Overrides the grace period of the options. */
  readonly gracePeriodMs?: number;
  /** Collect even if the index may be incomplete: what it does not know is then garbage. */
  readonly force?: boolean;
  /** The Presence in which it was decided to collect. Default: the current one. */
  readonly during?: Presence;
  /** The Lease under which it runs. */
  readonly lease?: Lease;
}

/**
 * This many files without a row, if they are more than half of all, do not result from a crash or a power failure: the
 * index has lost their rows, as when an older one was restored. A crash leaves the files of two steps of a removal, and
 * one for each transfer that was ending.
 */
const MAX_STRAYS = 60;

/** How long an object is kept after its row was removed, for those who are reading it. */
const READ_ON_MS = 3_600_000;
const OBJECTS_AT_ONCE = 100;
/** A bucket that refuses to remove this many objects probably removes none. */
const MAX_LEFT = 1_000;

/** What a collection removed, or in a dry run would remove. */
export interface CollectionReport {
  /** Uploads that were ended. */
  readonly uploads: Tally;
  /** Unfinished downloads and uploads. */
  readonly unfinished: Tally;
  /** Links of blobs that no manifest of their repository names. */
  readonly links: number;
  readonly manifests: Tally;
  readonly blobs: Tally;
  /** Files without a row. */
  readonly strays: Tally;
}

/**
 * Garbage collection. The rule, the same for hosted and mirrored repositories:
 *
 * - A manifest is needed while it is linked in a repository, tagged or not: a client may know it by its digest, and
 *   its owner has to delete it. Deleting a tag frees nothing; deleting the manifest does.
 * - A blob is needed while a stored manifest names it. A Link alone keeps it only for the grace period, which a push
 *   needs between its blobs and its manifest; then the Link is removed, too.
 * - Content that is not needed is removed if it was neither created nor used within the grace period, nor since an
 *   import began that is still running: it may be about to link it.
 *
 * Nothing waits for it: it reads and removes rows in a thread, and every removal checks again in its own transaction.
 */
export class Collection {
  readonly #options: CollectionOptions;

  constructor(options: CollectionOptions) {
    this.#options = options;
  }

  async run(run: CollectionRun = {}): Promise<CollectionReport> {
    const { survey, metadata, gracePeriodMs } = this.#options;
    await this.#requireTrust(run);
    if (run.dryRun !== true) {
      await settleUses(metadata, run.signal);
      await settleLinks(this.#options, run.signal);
      await this.#endOldGrants(run);
      await this.#dropOldMessages(run);
    }
    const graceSinceMs = Date.now() - (run.gracePeriodMs ?? gracePeriodMs);
    // Removals check that as well; without it, a dry run would be wrong.
    const sinceMs = Math.min(graceSinceMs, await metadata.importingSinceMs());
    const uploads = await this.#expireUploads(run);
    const unfinished = await this.#abandonIngests(run);
    const links = await this.#expireLinks(sinceMs, run);
    // Manifests first: what they name is needed until they are gone.
    const manifests = await this.#collect('manifests', sinceMs, run, after =>
      survey.unneeded('manifest', sinceMs, after),
    );
    // After a dry run those are still there, but must not count.
    const isAsIfGone = run.dryRun === true && links + manifests.items > 0;
    const blobs = await this.#collect('blobs', sinceMs, run, after =>
      isAsIfGone ? survey.unneeded('blob', sinceMs, after) : survey.unnamedBlobs(sinceMs, after),
    );
    await this.#endStaleDamage(run);
    const strays = await this.#removeStrays(sinceMs, run);
    if (run.dryRun !== true) await this.#removeObjects(run);
    return { uploads, unfinished, links, manifests, blobs, strays };
  }

  async #requireTrust({
    force,
    dryRun,
    during = this.#options.metadata.presence,
  }: CollectionRun): Promise<void> {
    const { metadata } = this.#options;
    if (force !== true) return requireCollecting(this.#options);
    const isStopped = (await whyNotCollected(metadata)) !== undefined;
    if (isStopped && dryRun !== true) await resumeCollecting(metadata, { during });
  }

  /** Credentials that are renewed regularly leave expired Grants, one for each repository. */
  async #endOldGrants({ signal }: RunOptions): Promise<void> {
    const { metadata, keepGrantsMs } = this.#options;
    const beforeMs = Date.now() - keepGrantsMs;
    for (let at = await metadata.endGrantsBefore(beforeMs); at.next !== undefined; ) {
      signal?.throwIfAborted();
      await sleep(PAUSE_MS);
      at = await metadata.endGrantsBefore(beforeMs, at.next);
    }
  }

  /** Senders do so, too, but endpoints that are no longer configured have none. */
  async #dropOldMessages({ signal }: RunOptions): Promise<void> {
    const { metadata, log } = this.#options;
    const beforeMs = Date.now() - KEPT_WAITING_MS;
    let count = 0;
    for (let some = -1; some !== 0; count += some) {
      signal?.throwIfAborted();
      if (count > 0) await sleep(PAUSE_MS);
      some = (await metadata.outbox?.dropBefore(beforeMs)) ?? 0;
    }
    if (count > 0) log.error({ count }, 'events that had waited for a week were dropped');
  }

  #expireUploads({ dryRun, signal }: RunOptions): Promise<Tally> {
    const { uploads, keepUnfinishedMs } = this.#options;
    const untouchedSinceMs = Date.now() - keepUnfinishedMs;
    return dryRun === true ? uploads.expirable(untouchedSinceMs) : uploads.expire(untouchedSinceMs, signal);
  }

  async #abandonIngests(run: RunOptions): Promise<Tally> {
    const { survey, keepUnfinishedMs } = this.#options;
    const beforeMs = Date.now() - keepUnfinishedMs;
    const counter = new Counter('unfinished transfers', run);
    for (const ingest of await survey.unfinished()) {
      run.signal?.throwIfAborted();
      if (ingest.modifiedAtMs < beforeMs && (await abandonIngest(this.#options, ingest, run))) {
        counter.add([ingest]);
      }
    }
    return counter.tally;
  }

  async #expireLinks(sinceMs: number, { dryRun, signal, onProgress }: RunOptions): Promise<number> {
    const { rows, survey } = this.#options;
    let count = 0;
    for await (const links of everything(after => survey.idleLinks(sinceMs, after))) {
      signal?.throwIfAborted();
      if (dryRun === true) {
        count += links.length;
        continue;
      }
      await inSteps(links, signal, async step => {
        count += await rows.expireLinks(step, sinceMs);
        onProgress?.({ step: 'links', items: count, bytes: 0 });
      });
    }
    return count;
  }

  async #collect(
    what: string,
    sinceMs: number,
    run: RunOptions,
    find: (after: string | undefined) => Promise<Found<SizedContent>>,
  ): Promise<Tally> {
    const { rows, meter } = this.#options;
    const counter = new Counter(what, run);
    for await (const contents of everything(find)) {
      run.signal?.throwIfAborted();
      if (run.dryRun === true) {
        counter.add(contents);
        continue;
      }
      await removeContents(this.#options, contents, {
        removeRows: step => rows.removeUnneeded(step, sinceMs),
        onRemoved: removed => {
          counter.add(removed);
          meter.count('upkeep_freed_bytes_total', { by: 'collection' }, bytesOf(removed));
        },
        signal: run.signal,
      });
    }
    return counter.tally;
  }

  async #endStaleDamage({ dryRun, signal }: RunOptions): Promise<void> {
    const { metadata, survey } = this.#options;
    if (dryRun === true) {
      return;
    }
    for await (const digests of everything(after => survey.staleDamage(after))) {
      await inSteps(digests, signal, async step => {
        await Promise.all(step.map(digest => metadata.endDamage(digest)));
      });
    }
  }

  /** Objects that have no row any more, and those that a crash kept from getting one. */
  async #removeObjects(run: CollectionRun): Promise<void> {
    const { metadata, blobs } = this.#options;
    if (blobs.removeObjects === undefined) return;
    const graceMs = run.gracePeriodMs ?? this.#options.gracePeriodMs;
    await metadata.giveUpAbandonedObjects(Date.now() - graceMs);
    // Without a grace period, those that were given up just now, too.
    const beforeMs = Date.now() - Math.min(READ_ON_MS, graceMs) + 1;
    const left = new Set<string>();
    for (;;) {
      const listed = await metadata.listGivenUpObjects(beforeMs, OBJECTS_AT_ONCE + left.size);
      const objects = listed.filter(({ key }) => !left.has(key));
      if (objects.length === 0 || left.size > MAX_LEFT) return;
      run.signal?.throwIfAborted();
      for (const { key } of await blobs.removeObjects(objects)) left.add(key);
      await metadata.forgetObjects(objects.flatMap(({ key }) => (left.has(key) ? [] : key)));
    }
  }

  /** Files whose row was never written, or was removed without them: a crash came in between. */
  async #removeStrays(sinceMs: number, run: CollectionRun): Promise<Tally> {
    const counter = new Counter('files', run);
    const ratio = new StrayRatio();
    // The first ones wait until there are too many, or until all files were seen.
    let waiting: StrayFile[] = [];
    const remove = async (files: readonly StrayFile[]) => {
      await inSteps(files, run.signal, async step => {
        // A rebuild that has taken over is about to write their rows.
        await run.lease?.confirm();
        counter.add(await this.#removeStep(step));
      });
    };
    for await (const page of this.#strayFiles(sinceMs)) {
      run.signal?.throwIfAborted();
      for (const { files, seen } of page) {
        ratio.add(files.length, seen);
        if (ratio.isTooHigh && run.force !== true) await this.#distrust(ratio, run);
        if (run.dryRun === true) counter.add(files);
        else waiting.push(...files);
      }
      if (ratio.strays >= MAX_STRAYS) {
        await remove(waiting);
        waiting = [];
      }
    }
    await remove(waiting);
    return counter.tally;
  }

  async *#strayFiles(sinceMs: number): AsyncGenerator<readonly StrayFiles[]> {
    const { survey } = this.#options;
    try {
      yield* everything(after => survey.strayFiles(sinceMs, after));
    } finally {
      await survey.endStrayFiles();
    }
  }

  /** Returns those that were removed, or given up. */
  async #removeStep(step: readonly StrayFile[]): Promise<readonly StrayFile[]> {
    const { rows } = this.#options;
    const objects = step.flatMap(({ digest, key }) => (key === undefined ? [] : { digest, key }));
    const digests = step.flatMap(({ digest, key }) => (key === undefined ? digest : []));
    const [removed, givenUp] = await Promise.all([
      rows.removeStrays(digests),
      objects.length === 0 ? [] : rows.giveUpStrayObjects(objects),
    ]);
    const gone = new Set([...removed, ...givenUp.map(({ key }) => key)]);
    return step.filter(({ digest, key }) => gone.has(key ?? digest));
  }

  async #distrust({ strays, seen }: StrayRatio, { dryRun, during }: CollectionRun): Promise<never> {
    const reason = `${strays} of the first ${seen} files have no row in the index`;
    if (dryRun !== true) await stopCollecting(this.#options.metadata, reason, { during });
    throw new CollectingStopped(stopFor(reason));
  }
}

/** Digests are random, so the first files in their order are representative. */
class StrayRatio {
  strays = 0;
  seen = 0;

  add(strays: number, seen: number): void {
    this.strays += strays;
    this.seen += seen;
  }

  get isTooHigh(): boolean {
    return this.strays >= MAX_STRAYS && this.strays > this.seen / 2;
  }
}

function bytesOf(contents: readonly { readonly size: number }[]): number {
  return contents.reduce((sum, { size }) => sum + size, 0);
}
