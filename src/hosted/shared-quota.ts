import { Lru } from '../lib/lru.ts';
import type { ComingManifest } from '../metadata/metadata-store.ts';
import { OciError, type OciErrorCode } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Quota } from './quota.ts';
import { uploadOf } from './sessions.ts';

/** What one process asks the one that keeps the quotas: the arguments of `Quota`. */
export interface QuotaRequest {
  readonly key: string;
  readonly repository: Repository;
  readonly bytes: number;
  readonly manifest?: ComingManifest | undefined;
}

/** Why it was refused; `undefined` if it was not. */
export type QuotaRefusal =
  | { readonly code: OciErrorCode; readonly message: string; readonly detail: unknown }
  | undefined;

/** How a process asks for its quotas. Rejects if they cannot be read. */
export interface QuotaCalls {
  reserve(request: QuotaRequest): Promise<QuotaRefusal>;
  check(request: QuotaRequest): Promise<QuotaRefusal>;
  hold(request: QuotaRequest): Promise<QuotaRefusal>;
  release(key: string): void;
}

/** Answers one other process from the quotas of this one. */
export class ReservationsOfProcess implements QuotaCalls {
  readonly #quota: Quota;
  /** Without those of uploads, which any process may end. */
  readonly #keys = new Set<string>();
  #hasEnded = false;

  constructor(quota: Quota) {
    this.#quota = quota;
  }

  async reserve({ key, repository, bytes, manifest }: QuotaRequest): Promise<QuotaRefusal> {
    const refusal = await refusalOf(this.#quota.reserve(key, repository, bytes, manifest));
    if (refusal === undefined && uploadOf(key) === undefined) this.#keys.add(key);
    // The index was asked meanwhile.
    if (this.#hasEnded) this.releaseAll();
    return refusal;
  }

  check({ key, repository, bytes }: QuotaRequest): Promise<QuotaRefusal> {
    return refusalOf(this.#quota.check(key, repository, bytes));
  }

  hold({ key, repository, bytes }: QuotaRequest): Promise<QuotaRefusal> {
    return refusalOf(this.#quota.hold(key, repository, bytes));
  }

  release(key: string): void {
    this.#keys.delete(key);
    this.#quota.release(key);
  }

  /** The process has ended. Its uploads are still there, and count until they end. */
  releaseAll(): void {
    this.#hasEnded = true;
    for (const key of this.#keys) this.release(key);
  }
}

async function refusalOf(asked: Promise<void>): Promise<QuotaRefusal> {
  try {
    await asked;
    return undefined;
  } catch (error) {
    if (!(error instanceof OciError)) throw error;
    const { code, message, detail } = error;
    return { code, message, detail };
  }
}

/** Those in progress are far fewer. */
const MAX_KNOWN = 10_000;

/** The quotas as a process sees them that asks another. */
export class RemoteQuota implements Quota {
  readonly #calls: QuotaCalls;
  readonly #isLimited: (repository: Repository) => boolean;
  /** Uploads may end in another process, so the oldest are forgotten; they are asked for again. */
  readonly #reserved = new Lru<object>({ maxEntries: MAX_KNOWN });

  /** `isLimited`: whether the bytes of the repository's owner are limited. */
  constructor(calls: QuotaCalls, isLimited: (repository: Repository) => boolean) {
    this.#calls = calls;
    this.#isLimited = isLimited;
  }

  async reserve(
    key: string,
    repository: Repository,
    bytes: number,
    manifest?: ComingManifest,
  ): Promise<void> {
    // An upload asks with each write. Without a limit, what was reserved when it began is enough.
    if (manifest === undefined && this.#reserved.get(key) !== undefined && !this.#isLimited(repository))
      return;
    throwIf(await this.#calls.reserve({ key, repository, bytes, manifest }));
    this.#reserved.set(key, {});
  }

  async check(key: string, repository: Repository, bytes: number): Promise<void> {
    if (this.#reserved.get(key) !== undefined && !this.#isLimited(repository)) return;
    throwIf(await this.#calls.check({ key, repository, bytes }));
  }

  async hold(key: string, repository: Repository, bytes: number): Promise<void> {
    throwIf(await this.#calls.hold({ key, repository, bytes }));
  }

  release(key: string): void {
    this.#reserved.delete(key);
    this.#calls.release(key);
  }
}

function throwIf(refusal: QuotaRefusal): void {
  if (refusal !== undefined) throw new OciError(refusal.code, refusal);
}
