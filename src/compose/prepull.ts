/** The part of the composition root that pulls images ahead, for `entrepot pull` and in a server. */
import { setMaxListeners } from 'node:events';
import { mayNameArch, repositoryOptions } from '../config/repository-options.ts';
import { type CronSchedule, parseCron } from '../lib/cron.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { Restartable } from '../lib/restartable.ts';
import { unlessAborted } from '../lib/single-flight.ts';
import { within } from '../lib/within.ts';
import { isOpenToAll } from '../grants/grants.ts';
import { ArchNames } from '../http/arch-names.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG, InvalidReference } from '../oci/reference.ts';
import { ANY_MANIFEST, type PullSource } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import { ANONYMOUS, type Right } from '../oci/requester.ts';
import { missingOfImage, missingText } from '../prepull/image-check.ts';
import { pullImage, type PulledImage, type PullOptions } from '../prepull/image-pull.ts';
import type { LastPulls } from '../prepull/last-pulls.ts';
import { DEFAULT_PARALLEL_IMAGES, pullAll } from '../prepull/pull-all.ts';
import {
  givenWith,
  InvalidImageList,
  platformsWanted,
  type WantedImage,
  wantedImages,
} from '../prepull/wanted-images.ts';
import { watch } from '../prepull/watch.ts';
import type { Tenant } from '../tenants/tenant.ts';
import { configuredNames } from './names-reader.ts';
import type { Observers, Parts } from './parts.ts';

/** The meaning of an image name here. */
export interface MeantImage {
  readonly repository: Repository;
  /** A tag or a digest. */
  readonly reference: string;
  /** The platforms that are needed; `undefined` for all. */
  readonly platforms: readonly Platform[] | undefined;
  /** Those that an option or a list names for the image, rather than a default; empty if none, or all, were named. */
  readonly givenPlatforms: readonly Platform[];
}

/**
 * The meaning of an image name, and the platforms for which it is needed, for a tenant or in general. Throws if the
 * name is invalid.
 */
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
  const givenPlatforms = givenWith(image);
  return { repository, reference: digest ?? tag, platforms, givenPlatforms };
}

/** An image that is now stored. */
export interface BroughtImage extends PulledImage {
  /** Whether it is hosted, so that it was pushed or imported; its blobs are not counted. */
  readonly isHosted: boolean;
}

/**
 * Pulls with the credentials of `tenant` only, otherwise with those of the operator. A hosted image cannot be fetched:
 * it is either completely stored, or the pull fails.
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
    // Everything is fetched here, so no platform of an index is prefetched.
    return { ...(await right), platforms: [] };
  };
  const sourceFor = (authorizeBase: typeof authorize): PullSource =>
    mayNameArch(config, repository) ? new ArchNames({ source: mirror, authorize: authorizeBase }) : mirror;
  const task = { repository, reference, right: await authorize(repository) };
  const source = sourceFor(authorize);
  const pulled = await pullImage(task, { source, metadata, platforms, ...options });
  if (tenant === undefined) {
    await renewPublicProof(
      parts,
      { repository, digest: pulled.digest },
      sourceFor(async () => OF_ANYBODY),
      options.signal,
    );
  }
  return { ...pulled, isHosted: false };
}

/** The right of an anonymous client about which nothing is proved, so that upstream itself has to answer. */
const OF_ANYBODY: Right = {
  requester: ANONYMOUS,
  credentials: [undefined],
  proved: false,
  provedIfUnreachable: false,
};
/** The image is stored already, so a slow upstream is not waited for. */
const PUBLIC_PROOF_MS = 5_000;

/**
 * Asks upstream anonymously for the manifest of an image, unless its repository was proved to be public recently. A pull
 * of stored content asks nothing, and one with Entrepot's own credentials proves nothing about the public; without this,
 * public images would be exported as private. Only upstream's answer makes or ends the proof.
 */
async function renewPublicProof(
  { metadata, config, clock }: Pick<Parts, 'metadata' | 'config' | 'clock'>,
  { repository, digest }: { readonly repository: Repository; readonly digest: Digest },
  source: PullSource,
  signal: AbortSignal,
): Promise<void> {
  if (config.offline) return;
  const rules = { verifyForMs: config.verifyForMs, staleGrantForMs: 0 };
  if (await isOpenToAll(metadata, repository, [digest], rules)) return;
  const asked = source.manifest(repository, digest, OF_ANYBODY, ANY_MANIFEST).catch((error: unknown) => {
    if (!(error instanceof OciError)) throw error;
  });
  await within(unlessAborted(asked, signal), PUBLIC_PROOF_MS, clock);
}

/** Rejects with what is missing of it. */
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
  if (missing.length > 0) {
    const what = await missingText(parts, missing, 1);
    throw new OciError('MANIFEST_UNKNOWN', { message: `it is hosted here, but ${what}` });
  }
  return { digest, blobs: 0, heldBlobs: 0, fetchedBytes: 0, isHosted: true };
}

export interface PrepullObservers extends Observers {
  /** Is told how each image fares. */
  readonly lastPulls: Pick<LastPulls, 'note' | 'keep' | 'failing'>;
}

/** The Lease of the process that pulls ahead. */
const LEASE_KEY = 'prepull';
/** How soon another process takes over when one ends or dies. */
const TAKE_OVER_POLL_MS = 10_000;

/**
 * The images that a server pulls by itself, according to `prepull` in the configuration: at startup, and at each time
 * of the schedule. Of several processes on a store one does it, and another takes over when that ends.
 */
export class Prepull {
  readonly #parts: Parts;
  readonly #schedule: CronSchedule;
  readonly #observers: PrepullObservers;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #isBroken = false;

  private constructor(parts: Parts, schedule: CronSchedule, observers: PrepullObservers) {
    this.#parts = parts;
    this.#schedule = schedule;
    this.#observers = observers;
    // Many things listen to it at once, which Node would otherwise report as a leak.
    setMaxListeners(0, this.#stopping.signal);
    this.#running = this.#run();
  }

  /** `undefined` if there is nothing to pull, if no upstream may be asked, or if it is left to `entrepot pull`. */
  static begin(parts: Parts, observers: PrepullObservers): Prepull | undefined {
    const { offline, prepull } = parts.config;
    const isWanted = prepull.images.length > 0 || prepull.from.length > 0;
    if (!isWanted || offline || prepull.schedule === false) return undefined;
    return new Prepull(parts, parseCron(prepull.schedule), observers);
  }

  /** Aborts pulls in progress; what was fetched stays. */
  async close(): Promise<void> {
    this.#stopping.abort(new Error('the server is stopping'));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { metadata, clock } = this.#parts;
    while (!signal.aborted) {
      try {
        const lease = await metadata.acquireLease(LEASE_KEY);
        this.#isBroken = false;
        if (lease !== undefined) await this.#watchUnder(lease);
      } catch (error) {
        if (!signal.aborted) this.#broke(error);
      }
      await clock.sleep(TAKE_OVER_POLL_MS, { signal }).catch(() => {});
    }
  }

  #tellFailing(count: number): void {
    const { meter, lastPulls } = this.#observers;
    meter.gauge('prepull_failing', count);
    lastPulls.failing = count;
  }

  /** Logged once: on a full disk no Lease can be acquired for hours. */
  #broke(error: unknown): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#observers.log.error({ err: error }, 'prepull failed and will be retried');
  }

  async #watchUnder(lease: Lease): Promise<void> {
    try {
      await this.#watch(lease);
    } finally {
      // From now on another process pulls, and reports.
      this.#tellFailing(0);
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
    const { log, lastPulls } = this.#observers;
    const failed = (error: unknown) =>
      log.error(failureDetail(error), 'the files of prepull cannot be read and will be retried');
    const reader = configuredNames(found => log.debug({ found }, 'prepull'));
    const watching = watch({
      schedule: this.#schedule,
      clock: this.#parts.clock,
      named: async () => {
        await stillOurs();
        const { images, unread } = await wantedImages(prepull, reader);
        [...unread.values()].forEach(failed);
        if (unread.size === 0) lastPulls.keep(images.map(({ name }) => name));
        return { images, unread: unread.size };
      },
      pull: async images => {
        await stillOurs();
        return this.#pullAll(images, signal);
      },
      failed,
      failing: count => this.#tellFailing(count),
      waits: () => {},
      signal,
    });
    await watching.catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }

  async #pullAll(images: readonly WantedImage[], signal: AbortSignal): Promise<readonly WantedImage[]> {
    const { log } = this.#observers;
    const pull = (image: WantedImage) => this.#pull(image, signal);
    const failed = await pullAll(images, { parallel: DEFAULT_PARALLEL_IMAGES, pull, signal });
    log.info({ pulled: images.length - failed.length, failed: failed.length }, 'prepull has finished');
    return failed;
  }

  async #pull(image: WantedImage, signal: AbortSignal): Promise<boolean> {
    const { log, meter, lastPulls } = this.#observers;
    const { name } = image;
    const begunMs = performance.now();
    try {
      const meant = meantImage(this.#parts, image);
      const pulled = await pullMeant(this.#parts, meant, { referrers: false, progress: UNSEEN, signal });
      const { digest, fetchedBytes: bytes } = pulled;
      const ms = Math.round(performance.now() - begunMs);
      if (bytes > 0) log.info({ image: name, digest, bytes, ms }, 'pulled ahead');
      meter.count('prepull_images_total', { outcome: 'pulled' });
      lastPulls.note(name, undefined);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      lastPulls.note(name, failureText(error));
      log.warn(
        { image: name, ...failureDetail(error) },
        'an image could not be pulled ahead and will be retried',
      );
      meter.count('prepull_images_total', { outcome: 'failed' });
      return false;
    }
  }
}

/** What a server pulls by itself, restarted when the configuration changes. */
export function prepullOf(parts: Parts, observers: PrepullObservers): Restartable<Prepull | undefined> {
  const { config } = parts;
  return new Restartable<Prepull | undefined>({
    settings: () => ({ prepull: config.prepull, runtimeHandlers: config.runtimeHandlers }),
    begin: async previous => {
      // It holds the Lease that the next one needs.
      await previous?.close();
      return Prepull.begin(parts, observers);
    },
  });
}

/** The reason alone if it is what was named or what upstream answered; a stack only for other errors. */
function failureDetail(error: unknown): { readonly reason: string } | { readonly err: unknown } {
  if (error instanceof OciError) return { reason: error.reason };
  const isNamed = error instanceof InvalidReference || error instanceof InvalidImageList;
  return isNamed ? { reason: error.message } : { err: error };
}

function failureText(error: unknown): string {
  if (error instanceof OciError) return error.story;
  return error instanceof Error ? error.message : String(error);
}

const UNSEEN = { expect: () => {}, advance: () => {} };
