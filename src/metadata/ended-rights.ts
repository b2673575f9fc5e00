import { createHash } from 'node:crypto';
import type { Repository } from '../oci/repository.ts';

/** A request of upstream that may prove a right. Ends of the right by other processes since then take precedence. */
export interface SinceAsked {
  /** The names that the credential may have in Grants. */
  readonly credentialIds: readonly string[];
  /** How long ago the request began, ms. */
  readonly agoMs: number;
}

/**
 * Where the index notes that a right has ended, or all rights of a credential if there is no repository. Rights share
 * slots, so that clients that are refused many names fill no table: the end of one then counts for others, too, which
 * costs another request of upstream and gives nothing away.
 */
export function slotOf(credentialId: string, repository?: Repository): number {
  const right = repository === undefined ? [] : [repository.upstream, repository.name];
  return createHash('sha256')
    .update([credentialId, ...right].join(' '))
    .digest()
    .readUInt16BE(0);
}

/** Where an end of the right is noted, whichever of its names the credential had. */
export function slotsOf(repository: Repository, credentialIds: readonly string[]): readonly number[] {
  return credentialIds.flatMap(id => [slotOf(id, repository), slotOf(id)]);
}

/** More than two hours in which a right ends every second. */
const MAX_SAMPLES = 10_000;

/** How many ends the index had at earlier moments, by this process's own clock: no clock of others has to agree with it. */
export class EndCounts {
  readonly #nowMs: () => number;
  /** In order of time. */
  #samples: { readonly ends: number; readonly atMs: number }[] = [];

  /** `nowMs`: by a clock that nobody sets. */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** Call once a second with what was just read. */
  note(ends: number): void {
    const { ends: last = 0 } = this.#samples.at(-1) ?? {};
    if (ends === last) return;
    // A failover has lost some. The next ones get the same numbers, and must not seem to have been there before.
    if (ends < last) this.#samples = [];
    this.#samples.push({ ends, atMs: this.#nowMs() });
    if (this.#samples.length > MAX_SAMPLES) this.#samples = this.#samples.slice(MAX_SAMPLES / 2);
  }

  /** How many there were at least that long ago. As far as is known: ends of the second before may not be among them. */
  before(agoMs: number): number {
    const atMs = this.#nowMs() - agoMs;
    return this.#samples.findLast(sample => sample.atMs <= atMs)?.ends ?? 0;
  }
}
