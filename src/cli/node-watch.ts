import { type Clock, systemClock } from '../lib/clock.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { FolderWatch } from '../tenants/folder-watch.ts';
import { type CertsChange, CertsFolder } from './certs-folder.ts';
import type { WantedNodeFiles } from './wanted-node-files.ts';

export interface NodeWatchOptions {
  /** containerd's `certs.d`. */
  readonly folder: string;
  /** The folders with the files that `wanted` reads. */
  readonly inputs: readonly string[];
  /** The files as they have to be now; `undefined` if the server's name cannot be resolved. May reject. */
  readonly wanted: () => Promise<WantedNodeFiles | undefined>;
  readonly tell: NodeWatchTeller;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/** Where a watch says what it does. */
export interface NodeWatchTeller {
  written(path: string): void;
  removed(path: string): void;
  /** What is not as somebody may expect, once for as long as it lasts. */
  note(text: string): void;
}

/**
 * Keeps a node's files up to date. It looks when a file that it depends on changes or one of its own does, and every ten
 * seconds, for the address of the server. While it does not know what is wanted, everything stays as it is.
 */
export class NodeWatch {
  readonly #options: NodeWatchOptions;
  readonly #folder: CertsFolder;
  readonly #watch: FolderWatch;
  #notes: ReadonlySet<string> = new Set();

  constructor(options: NodeWatchOptions) {
    const { folder, clock = systemClock } = options;
    this.#options = options;
    this.#folder = new CertsFolder(folder, clock);
    this.#watch = new FolderWatch(() => this.#look(), noteLog(options.tell), clock);
  }

  /** Resolves when the files were written once, as far as possible. Rejects if `wanted` does at the first time. */
  async start(): Promise<void> {
    // A mistake on the command line is not one that time mends.
    await this.#options.wanted();
    await this.#watch.start();
  }

  /** Leaves the files as they are. */
  async close(): Promise<void> {
    await this.#watch.close();
  }

  /** Removes all files that were kept; only after `close`. */
  async removeFiles(): Promise<void> {
    this.#tell(await this.#folder.keep([]), []);
  }

  async #look(): Promise<readonly string[]> {
    const { inputs, wanted } = this.#options;
    try {
      const now = await wanted();
      if (now === undefined) this.#note([UNRESOLVED]);
      else this.#tell(await this.#folder.keep(now.files), now.notes);
    } catch (error) {
      this.#note([error instanceof Error ? error.message : String(error)]);
    }
    return [...inputs, this.#folder.path, ...(await this.#folder.registries())];
  }

  #tell({ written, removed, problems }: CertsChange, notes: readonly string[]): void {
    for (const path of written) this.#options.tell.written(path);
    for (const path of removed) this.#options.tell.removed(path);
    this.#note([...problems, ...notes]);
  }

  #note(notes: readonly string[]): void {
    const told = this.#notes;
    this.#notes = new Set(notes);
    for (const text of this.#notes) if (!told.has(text)) this.#options.tell.note(text);
  }
}

const UNRESOLVED = 'the name of the server cannot be resolved now: the files stay as they are';

/** What a FolderWatch logs: that it cannot watch a folder. */
function noteLog(tell: NodeWatchTeller): Log {
  const note = (_fields: object, message: string) => tell.note(message);
  return { ...silentLog, warn: note, error: note };
}
