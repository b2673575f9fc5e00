import { removalClaim } from '../metadata/claim-keys.ts';
import { everything, type Found, type SizedContent } from '../metadata/survey.ts';
import { settleUses } from './clock.ts';
import { removeContents } from './removal.ts';
import { abandonIngest } from './unfinished.ts';
import { inSteps } from './steps.ts';
import { Counter, type Ingests, type RunOptions, type Stores, type StrayFile, type Tally } from './stores.ts';

export interface CollectionOptions extends Stores, Ingests {
  /** What was made or used within this time stays, needed or not: its manifest may be on the way. */
  readonly gracePeriodMs: number;
  /** How long an unfinished download or upload that nobody works on is kept, to be resumed. */
  readonly keepUnfinishedMs: number;
  /** Upload sessions, which are owned by `hosted`: gives up those that nobody touched since, or finds them. */
  readonly uploads: {
    expire(untouchedSinceMs: number, signal?: AbortSignal): Promise<Tally>;
    expirable(untouchedSinceMs: number): Promise<Tally>;
  };
}

export interface CollectionReport {
  /** Upload sessions given up. */
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
 *   deleting it is its owner's act. Deleting a tag frees nothing; deleting the manifest does.
 * - A blob is needed while a manifest that is held names it. A Link alone keeps it only for the grace period, which
 *   is what a push needs between its blobs and its manifest; then the Link goes too.
 * - What nobody needs goes when it was neither made nor used within the grace period.
 *
 * Nothing waits for it: it looks and removes rows in a thread, and every removal decides anew in its own transaction.
 */
export class Collection {
  readonly #options: CollectionOptions;

  constructor(options: CollectionOptions) {
    this.#options = options;
  }

  /** `gracePeriodMs`: this time another one. */
  async run(run: RunOptions & { readonly gracePeriodMs?: number } = {}): Promise<CollectionReport> {
    const { survey, metadata, gracePeriodMs } = this.#options;
    if (run.dryRun !== true) {
      await settleUses(metadata, run.signal);
    }
    const sinceMs = Date.now() - (run.gracePeriodMs ?? gracePeriodMs);
    const uploads = await this.#expireUploads(run);
    const unfinished = await this.#abandonIngests(run);
    const links = await this.#expireLinks(sinceMs, run);
    // Manifests first: what they name is needed until they are gone.
    const manifests = await this.#collect('manifests', sinceMs, run, after =>
      survey.unneeded('manifest', sinceMs, after),
    );
    // A dry run has left what would have gone by now, and must look through it.
    const isAsIfGone = run.dryRun === true && links + manifests.items > 0;
    const blobs = await this.#collect('blobs', sinceMs, run, after =>
      isAsIfGone ? survey.unneeded('blob', sinceMs, after) : survey.unnamedBlobs(sinceMs, after),
    );
    await this.#endStaleDamage(run);
    const strays = await this.#removeStrays(sinceMs, run);
    return { uploads, unfinished, links, manifests, blobs, strays };
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
    for (const { key, size, modifiedAtMs } of await survey.unfinished()) {
      run.signal?.throwIfAborted();
      if (modifiedAtMs < beforeMs && (await abandonIngest(this.#options, key, run))) {
        counter.add([{ size }]);
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

  /** Files whose row was never written, or went without them: a crash came in between. */
  async #removeStrays(sinceMs: number, run: RunOptions): Promise<Tally> {
    const { survey } = this.#options;
    const counter = new Counter('files', run);
    for await (const files of everything(after => survey.strayFiles(sinceMs, after))) {
      run.signal?.throwIfAborted();
      if (run.dryRun === true) {
        counter.add(files);
        continue;
      }
      await inSteps(files, run.signal, async step => {
        const removed = await Promise.all(step.map(file => this.#removeStray(file)));
        counter.add(step.filter((_, index) => removed[index]));
      });
    }
    return counter.tally;
  }

  async #removeStray({ digest }: StrayFile): Promise<boolean> {
    const { metadata, blobs } = this.#options;
    const key = removalClaim(digest);
    if (!(await metadata.claim(key))) {
      return false;
    }
    try {
      const isStray = await metadata.isStray(digest);
      if (isStray) {
        await blobs.remove(digest);
      }
      return isStray;
    } finally {
      await metadata.release(key);
    }
  }
}

function bytesOf(contents: readonly { readonly size: number }[]): number {
  return contents.reduce((sum, { size }) => sum + size, 0);
}
