import { REMEMBERED_FOR_MS } from './manifest-check.ts';
import type { Repository } from '../oci/repository.ts';
import type { PullQuery, WithGrants } from './metadata-store.ts';

export interface PullMemoryOptions {
  /** For content and answers together; what was remembered first goes first. */
  readonly maxBytes: number;
  /** After this, everything is read again: what a disk damages is noticed although nobody has written. */
  readonly maxAgeMs: number;
  /** Default: `performance.now`. */
  readonly nowMs?: () => number;
}

/** As long as a large manifest that was checked once counts as sound. */
const MEMORY_MS = REMEMBERED_FOR_MS;
/** Manifests of some thousand images, or a few of the largest. */
export const MANIFEST_MEMORY: PullMemoryOptions = { maxBytes: 64 * 1024 * 1024, maxAgeMs: MEMORY_MS };
/** Rows only: some ten thousand blobs. */
export const BLOB_MEMORY: PullMemoryOptions = { maxBytes: 16 * 1024 * 1024, maxAgeMs: MEMORY_MS };

/** What one reference means, and what was answered to those who asked for it. */
interface Remembered<Content, Answer> {
  readonly content: Content;
  readonly answers: Map<string, Answer>;
  sizeBytes: number;
}

/** Of an entry or an answer, besides its key and content: about what V8 needs for maps, objects and strings. */
const OVERHEAD_BYTES = 750;
/** The same for a Grant in an answer, with the id of its credential. */
const GRANT_BYTES = 150;

/**
 * What the index said about pulls, for as long as nothing has changed that it may answer them from: a pull that is repeated
 * then costs no query. Any such change forgets everything, since one row may bear on many pulls; and while changes are
 * frequent, remembering costs next to nothing.
 *
 * `Content` is what the index knows of a reference, whoever asks; an `Answer` is that for one requester.
 */
export class PullMemory<Content, Answer extends WithGrants> {
  readonly #maxBytes: number;
  readonly #maxAgeMs: number;
  readonly #nowMs: () => number;
  /** By repository and reference, the oldest first. */
  #entries = new Map<string, Remembered<Content, Answer>>();
  #bytes = 0;
  #version = Number.NaN;
  #sinceMs = 0;

  constructor({ maxBytes, maxAgeMs, nowMs = () => performance.now() }: PullMemoryOptions) {
    this.#maxBytes = maxBytes;
    this.#maxAgeMs = maxAgeMs;
    this.#nowMs = nowMs;
  }

  /** That of the last `turnTo`; NaN before. */
  get version(): number {
    return this.#version;
  }

  /** An estimate, never above `maxBytes`. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Forgets what was remembered at another `version` of the index. Call before each pull with the version that the index
   * has then, and read nothing before that.
   */
  turnTo(version: number): void {
    if (version === this.#version && this.#nowMs() - this.#sinceMs < this.#maxAgeMs) return;
    if (this.#entries.size > 0) this.#entries = new Map();
    this.#bytes = 0;
    this.#version = version;
    this.#sinceMs = this.#nowMs();
  }

  content(repository: Repository, reference: string): Content | undefined {
    return this.#entries.get(entryKey(repository, reference))?.content;
  }

  answer(repository: Repository, reference: string, query: PullQuery): Answer | undefined {
    return this.#entries.get(entryKey(repository, reference))?.answers.get(answerKey(query));
  }

  /** `contentBytes`: how much memory the content takes. Nothing is remembered of what does not fit. */
  keep(
    repository: Repository,
    reference: string,
    query: PullQuery,
    { content, contentBytes, answer }: { content: Content; contentBytes: number; answer: Answer },
  ): void {
    const key = entryKey(repository, reference);
    const known = this.#entries.get(key);
    const entry = known ?? { content, answers: new Map<string, Answer>(), sizeBytes: 0 };
    const asked = answerKey(query);
    const entryBytes = known === undefined ? OVERHEAD_BYTES + key.length + contentBytes : 0;
    const answerBytes = OVERHEAD_BYTES + asked.length + answer.grants.length * GRANT_BYTES;
    const addedBytes = entryBytes + answerBytes;
    if (entry.sizeBytes + addedBytes > this.#maxBytes) return;
    entry.answers.set(asked, answer);
    entry.sizeBytes += addedBytes;
    this.#entries.set(key, entry);
    this.#bytes += addedBytes;
    this.#makeRoom(key);
  }

  #makeRoom(forKey: string): void {
    for (const [key, { sizeBytes }] of this.#entries) {
      if (this.#bytes <= this.#maxBytes) return;
      if (key === forKey) continue;
      this.#entries.delete(key);
      this.#bytes -= sizeBytes;
    }
  }
}

/** Neither part of a repository contains a space. */
function entryKey({ upstream, name }: Repository, reference: string): string {
  return `${upstream} ${name} ${reference}`;
}

/** No id or grantee contains a line break; the lengths tell no grantee from ''. */
function answerKey({ credentialIds = [], grantees = [] }: PullQuery): string {
  return `${credentialIds.length} ${grantees.length}\n${credentialIds.join('\n')}\n${grantees.join('\n')}`;
}
