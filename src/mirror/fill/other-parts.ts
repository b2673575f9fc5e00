import type { ComingRange, SavedParts } from '../../blobs/spool.ts';
import type { Extent, KnownExtents } from '../../lib/extents.ts';

/** A process with coming bytes announces them again this often, changed or not. */
export const ANNOUNCE_EACH_MS = 1_000;
/** After so long without news, the process may be dead. */
const SILENT_AFTER_MS = 2 * ANNOUNCE_EACH_MS;
/** After so long, nobody waits for it any more: it may be suspended. */
const LOST_AFTER_MS = 5 * ANNOUNCE_EACH_MS;

const NOTHING: readonly ComingRange[] = [];

/** Another Lease for parts of the same blob from the same source. */
export interface OtherHolder {
  readonly key: string;
  readonly epoch: number;
  /** Whether its process is alive, as far as is known. */
  readonly isHeld: boolean;
}

export interface OtherPartsOptions {
  /** Of the Lease of this process. */
  readonly ownKey: string;
  /** The size of the whole blob. */
  readonly size: number;
  readonly findHolders: () => Promise<readonly OtherHolder[]>;
  readonly open: (holder: OtherHolder) => Promise<SavedParts | undefined>;
  /** Called now and then for a holder that is silent, to end its Lease if its process is dead. */
  readonly endIfDead: (holder: OtherHolder) => Promise<void>;
}

/** Bytes that another process will have. */
export interface OtherComing extends ComingRange {
  /** Whether that process comes first if both are about to request the same. */
  readonly isFirst: boolean;
}

interface Other {
  holder: OtherHolder;
  readonly saved: SavedParts;
  coming: readonly ComingRange[];
  /** When it last announced something, by `performance.now()`. */
  heardAtMs: number;
  askedAfterAtMs: number;
}

/** What other processes have of a blob, or have left, and what they are requesting of it, as of the last look. */
export class OtherParts {
  readonly #options: OtherPartsOptions;
  /** By the key of their Lease. */
  readonly #others = new Map<string, Other>();
  #isShared = false;

  constructor(options: OtherPartsOptions) {
    this.#options = options;
  }

  /** What each has saved. */
  get extents(): readonly KnownExtents[] {
    return [...this.#others.values()].map(({ saved }) => saved.extents);
  }

  /** What live processes bring. */
  get coming(): readonly OtherComing[] {
    const { ownKey } = this.#options;
    return [...this.#others.values()].flatMap(({ holder, coming, heardAtMs }) =>
      holder.isHeld && silenceMs(heardAtMs) < LOST_AFTER_MS
        ? coming.map(range => ({ ...range, isFirst: holder.key < ownKey }))
        : [],
    );
  }

  /** Whether another process has the blob open, and so may want what this one brings. */
  get isShared(): boolean {
    return this.#isShared;
  }

  /** Looks again. True if others have, or bring, something else than before. */
  async look(): Promise<boolean> {
    const before = this.#state();
    const holders = await this.#options.findHolders();
    this.#isShared = holders.some(({ isHeld }) => isHeld);
    for (const holder of holders) await this.#lookAt(holder);
    for (const key of this.#others.keys())
      if (!holders.some(holder => holder.key === key)) await this.#replace(key, undefined);
    const now = this.#state();
    return before.length !== now.length || before.some((one, at) => one !== now[at]);
  }

  /** As `SavedParts.read`, from whichever has it. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    for (const { saved } of this.#others.values()) {
      const count = await saved.read(buffer, position);
      if (count > 0) return count;
    }
    return 0;
  }

  async close(): Promise<void> {
    for (const key of this.#others.keys()) await this.#replace(key, undefined);
  }

  /** What can be read stays so while its next holder takes it over. */
  async #lookAt(holder: OtherHolder): Promise<void> {
    const known = this.#others.get(holder.key);
    if (known?.holder.epoch === holder.epoch && (await known.saved.refresh()))
      return this.#heard(known, holder);
    const found = await this.#open(holder);
    if (found !== undefined || known === undefined || !(await known.saved.refresh()))
      return this.#replace(holder.key, found);
    known.coming = NOTHING;
  }

  async #open(holder: OtherHolder): Promise<Other | undefined> {
    const saved = await this.#options.open(holder);
    if (saved === undefined) return undefined;
    const nowMs = performance.now();
    if (saved.size === this.#options.size)
      return { holder, saved, coming: saved.coming, heardAtMs: nowMs, askedAfterAtMs: nowMs };
    await saved.close();
    return undefined;
  }

  async #heard(other: Other, holder: OtherHolder): Promise<void> {
    const { coming } = other.saved;
    const nowMs = performance.now();
    other.holder = holder;
    if (coming !== other.coming) other.heardAtMs = nowMs;
    other.coming = coming;
    const isSilent = holder.isHeld && coming.length > 0 && silenceMs(other.heardAtMs) > SILENT_AFTER_MS;
    if (!isSilent || silenceMs(other.askedAfterAtMs) < ANNOUNCE_EACH_MS) return;
    other.askedAfterAtMs = nowMs;
    await this.#options.endIfDead(holder);
  }

  async #replace(key: string, other: Other | undefined): Promise<void> {
    const before = this.#others.get(key);
    if (other === undefined) this.#others.delete(key);
    else this.#others.set(key, other);
    await before?.saved.close();
  }

  /** What is the same as long as nothing has changed. */
  #state(): readonly unknown[] {
    return [...this.#others.values()].flatMap(({ holder, saved, coming, heardAtMs }) => [
      holder.key,
      holder.isHeld,
      saved.extents,
      coming,
      silenceMs(heardAtMs) < LOST_AFTER_MS,
    ]);
  }
}

/** Whether the bytes of `extent` overlap with those of `other`. */
export function overlaps(extent: Extent, other: Extent): boolean {
  return extent.start < other.end && other.start < extent.end;
}

function silenceMs(sinceMs: number): number {
  return performance.now() - sinceMs;
}
