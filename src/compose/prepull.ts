/** The part of the composition root that brings images before a node asks for them: for `entrepot pull` and for a server. */
import { setMaxListeners } from 'node:events';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { mayNameArch, repositoryOptions } from '../config/repository-options.ts';
import { type CronSchedule, parseCron } from '../lib/cron.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { Restartable } from '../lib/restartable.ts';
import { ArchNames } from '../mirror/arch-names.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { missingOfImage } from '../prepull/image-check.ts';
import { pullImage, type PulledImage, type PullOptions } from '../prepull/image-pull.ts';
import { DEFAULT_PARALLEL_IMAGES, pullAll } from '../prepull/pull-all.ts';
import {
  type NamesReader,
  platformsWanted,
  type WantedImage,
  wantedImages,
} from '../prepull/wanted-images.ts';
import { watch } from '../prepull/watch.ts';
import type { Tenant } from '../tenants/tenant.ts';
import type { Observers, Parts } from './parts.ts';

/** What an image means here. */
export interface MeantImage {
  readonly repository: Repository;
  /** A tag or a digest. */
  readonly reference: string;
  /** Of which it is wanted; `undefined`: all. */
  readonly platforms: readonly Platform[] | undefined;
}

/** What an image means here, and for which platforms it is wanted, of a tenant or in general. Throws what is wrong with its name. */
export function meantImage(
  { resolver, config }: Pick<Parts, 'resolver' | 'config'>,
  image: WantedImage,
  tenant?: Tenant,
): MeantImage {
  const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(image.name);
  const upstream = config.upstreams.get(repository.upstream);
  const usual = tenant?.options.platforms ??
    (upstream && repositoryOptions(upstream, repository.name).platforms) ?? [DEFAULT_PLATFORM];
  const platforms = platformsWanted(image, usual, config.runtimeHandlers);
  return { repository, reference: digest ?? tag, platforms };
}

/** An image that is here now. */
export interface BroughtImage extends PulledImage {
  /** It was pushed or imported here and has no upstream; its blobs are not counted. */
  readonly isHosted: boolean;
}

/**
 * With the credentials of `tenant` alone, else with those of whoever runs this registry. A hosted image has nowhere to
 * come from: it is here as a whole already, or cannot be pulled.
 */
export async function pullMeant(
  parts: Parts,
  meant: MeantImage,
  {
    tenant,
    ...options
  }: Pick<PullOptions, 'referrers' | 'progress' | 'signal'> & { readonly tenant?: Tenant | undefined },
): Promise<BroughtImage> {
  const { access, mirror, metadata, config } = parts;
  const { repository, reference, platforms } = meant;
  if (repository.upstream === '') {
    if (tenant !== undefined) await access.rightOf(tenant, repository);
    return hostedImage(parts, meant);
  }
  const authorize = async (place: Repository): Promise<Right> => {
    const right = tenant === undefined ? access.operatorRight(place) : access.rightOf(tenant, place);
    // All that is wanted is fetched here: of an index nothing goes ahead of it.
    return { ...(await right), platforms: [] };
  };
  const task = { repository, reference, right: await authorize(repository) };
  const source = mayNameArch(config, repository) ? new ArchNames({ source: mirror, authorize }) : mirror;
  return { ...(await pullImage(task, { source, metadata, platforms, ...options })), isHosted: false };
}

/** Rejects with what of it is not here. */
async function hostedImage(
  parts: Pick<Parts, 'metadata' | 'blobs'>,
  { repository, reference, platforms }: MeantImage,
): Promise<BroughtImage> {
  const digest = await digestOfReference(parts.metadata, repository, reference);
  if (digest === undefined || (await parts.metadata.readLinkedManifest(repository, digest)) === undefined) {
    throw new OciError('MANIFEST_UNKNOWN', {
      message: 'it is hosted here but not stored: push or import it',
    });
  }
  const missing = await missingOfImage(parts, repository, reference, platforms);
  const [first, ...others] = missing;
  if (first !== undefined) {
    const more = others.length === 0 ? '' : ` and ${others.length} more`;
    throw new OciError('MANIFEST_UNKNOWN', { message: `it is hosted here, but ${first}${more} is missing` });
  }
  return { digest, blobs: 0, heldBlobs: 0, fetchedBytes: 0, isHosted: true };
}

/** The Lease of the process that brings images. */
const LEASE_KEY = 'prepull';
/** A process that ends or dies is followed by another one within this; a round is not missed for good by it. */
const TAKE_OVER_POLL_MS = 10_000;

/**
 * What a server brings by itself, as `prepull` of the configuration says: when it starts, and at each time of the
 * schedule. Of several processes on one store one does it, and another when that one ends.
 */
export class Prepull {
  readonly #parts: Parts;
  readonly #schedule: CronSchedule;
  readonly #observers: Observers;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #isBroken = false;

  private constructor(parts: Parts, schedule: CronSchedule, observers: Observers) {
    this.#parts = parts;
    this.#schedule = schedule;
    this.#observers = observers;
    // All that is under way at once listens to it; Node takes more than ten for a leak, and says so.
    setMaxListeners(0, this.#stopping.signal);
    this.#running = this.#run();
  }

  /** `undefined` where there is nothing to pull, nobody may be asked, or it is left to `entrepot pull`. */
  static begin(parts: Parts, observers: Observers): Prepull | undefined {
    const { offline, prepull } = parts.config;
    const isWanted = prepull.images.length > 0 || prepull.from.length > 0;
    if (!isWanted || offline || prepull.schedule === false) return undefined;
    return new Prepull(parts, parseCron(prepull.schedule), observers);
  }

  /** Breaks off what is pulled; what came of it stays. */
  async close(): Promise<void> {
    this.#stopping.abort(new Error('the server is stopping'));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { metadata } = this.#parts;
    while (!signal.aborted) {
      try {
        const lease = await metadata.acquireLease(LEASE_KEY);
        this.#isBroken = false;
        if (lease !== undefined) await this.#watchUnder(lease);
      } catch (error) {
        if (!signal.aborted) this.#broke(error);
      }
      await delay(TAKE_OVER_POLL_MS, undefined, { signal }).catch(() => {});
    }
  }

  /** Told once: a disk that is full to the last byte takes no Lease for hours. */
  #broke(error: unknown): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#observers.log.error({ err: error }, 'prepull failed and will be retried');
  }

  async #watchUnder(lease: Lease): Promise<void> {
    try {
      await this.#watch(lease);
    } finally {
      // What another process brings from now on, that one tells of.
      this.#observers.meter.gauge('prepull_failing', 0);
      await this.#parts.metadata.release(lease);
    }
  }

  /** Until the server stops, or another process has taken over. */
  async #watch(lease: Lease): Promise<void> {
    const lost = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, lost.signal]);
    setMaxListeners(0, signal);
    const { prepull } = this.#parts.config;
    const stillOurs = async () => {
      try {
        await lease.confirm();
      } catch (error) {
        if (error instanceof LeaseLost) lost.abort(error);
        throw error;
      }
    };
    const { log, meter } = this.#observers;
    const failed = (error: unknown) =>
      log.error({ err: error }, 'the files of prepull cannot be read and will be retried');
    const watching = watch({
      schedule: this.#schedule,
      named: async () => {
        await stillOurs();
        const { images, unread } = await wantedImages(prepull, this.#reader);
        [...unread.values()].forEach(failed);
        return { images, unread: unread.size };
      },
      pull: async images => {
        await stillOurs();
        return this.#pullAll(images, signal);
      },
      failed,
      failing: count => meter.gauge('prepull_failing', count),
      waits: () => {},
      signal,
    });
    await watching.catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }

  get #reader(): NamesReader {
    return {
      read: file => readFile(file, 'utf8'),
      shown: file => file,
      takesLikely: false,
      tell: found => this.#observers.log.debug({ found }, 'prepull'),
    };
  }

  async #pullAll(images: readonly WantedImage[], signal: AbortSignal): Promise<readonly WantedImage[]> {
    const { log } = this.#observers;
    const pull = (image: WantedImage) => this.#pull(image, signal);
    const failed = await pullAll(images, { parallel: DEFAULT_PARALLEL_IMAGES, pull, signal });
    log.info({ pulled: images.length - failed.length, failed: failed.length }, 'prepull has finished');
    return failed;
  }

  async #pull(image: WantedImage, signal: AbortSignal): Promise<boolean> {
    const { log, meter } = this.#observers;
    const { name } = image;
    const begunMs = performance.now();
    try {
      const meant = meantImage(this.#parts, image);
      const pulled = await pullMeant(this.#parts, meant, { referrers: false, progress: UNSEEN, signal });
      const { digest, fetchedBytes: bytes } = pulled;
      const ms = Math.round(performance.now() - begunMs);
      if (bytes > 0) log.info({ image: name, digest, bytes, ms }, 'pulled ahead');
      meter.count('prepull_images_total', { outcome: 'pulled' });
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      const reason = error instanceof OciError ? error.reason : undefined;
      const detail = reason === undefined ? { err: error } : { reason };
      log.warn({ image: name, ...detail }, 'could not be pulled ahead and will be retried');
      meter.count('prepull_images_total', { outcome: 'failed' });
      return false;
    }
  }
}

/** What a server brings by itself, as soon as it follows the configuration. */
export function prepullOf(parts: Parts, observers: Observers): Restartable<Prepull | undefined> {
  const { config } = parts;
  return new Restartable<Prepull | undefined>({
    settings: () => ({ prepull: config.prepull, runtimeHandlers: config.runtimeHandlers }),
    begin: async previous => {
      // It has the Lease that the next one needs.
      await previous?.close();
      return Prepull.begin(parts, observers);
    },
  });
}

const UNSEEN = { expect: () => {}, advance: () => {} };
