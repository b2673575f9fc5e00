// Faults of the file system, and pauses at any of its calls, for the product as a child process: its calls go through a
// small library (syscall-shim.c) that does to them what the test says.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { preloadLibrary } from './preload-library.ts';
import { until } from './programs.ts';

/**
 * The kinds of calls: `write` is any positioned or plain write, `sync` fsync and fdatasync, `copy` what copies between files
 * in the kernel, `lock` the taking of SQLite's write lock, which is where a transaction that writes begins, `file-lock` that
 * of any lock on a part of a file, `map` what maps a file into memory that is shared.
 */
export type CallKind =
  | 'write'
  | 'read'
  | 'sync'
  | 'rename'
  | 'link'
  | 'unlink'
  | 'truncate'
  | 'open'
  | 'copy'
  | 'lock'
  | 'file-lock'
  | 'map';

export type FaultAction =
  /** The whole process stands still, as by SIGSTOP, until somebody sends SIGCONT. */
  | 'stop'
  /** SIGKILL. */
  | 'kill'
  /** The call is not made, or what it did is not told, and fails with this error. */
  | { readonly fail: keyof typeof constants.errno }
  | { readonly delayMs: number }
  /** Of a write only so many bytes are written, as its result says. */
  | { readonly tearBytes: number };

export interface Fault {
  /** What `met` calls it; without blanks. */
  readonly id: string;
  readonly call: CallKind;
  /** Is part of the path; of a rename and a link, of `old -> new`. Not empty. */
  readonly path: string;
  /** Acts on this call of them, counted from 1 since the faults were set; default: on each. */
  readonly nth?: number;
  readonly action: FaultAction;
  /** Before the call is made (default), or when it has been made. */
  readonly phase?: 'before' | 'after';
}

/** A fault that has acted. */
export interface MetFault {
  readonly id: string;
  readonly pid: number;
  readonly call: CallKind;
  readonly path: string;
}

/** The faults of the processes that were started with its `env`. */
export class SyscallShim {
  /** Environment variables for the process. */
  readonly env: Readonly<Record<string, string>>;
  readonly #folder: string;

  private constructor(folder: string, library: string) {
    this.#folder = folder;
    this.env = { LD_PRELOAD: library, SYSCALL_SHIM: folder };
  }

  /** Keeps its files in `folder`, which is made. */
  static async open(folder: string): Promise<SyscallShim> {
    await mkdir(folder, { recursive: true });
    return new SyscallShim(folder, await preloadLibrary('syscall-shim.c'));
  }

  /** From now on these, and no others. */
  async set(...faults: readonly Fault[]): Promise<void> {
    const text = faults.map(line).join('');
    const file = join(this.#folder, 'rules.new');
    await writeFile(file, text);
    await rename(file, join(this.#folder, 'rules'));
  }

  /** The faults that have acted so far, in their order. */
  async met(): Promise<readonly MetFault[]> {
    const text = await readFile(join(this.#folder, 'met'), 'utf8').catch(() => '');
    return text
      .split('\n')
      .slice(0, -1)
      .map(each => {
        const [id = '', pid, call, ...path] = each.split(' ');
        return { id, pid: Number(pid), call: call as CallKind, path: path.join(' ') };
      });
  }

  /** Resolves when the fault `id` has acted; its process may then stand still. */
  async untilMet(id: string, timeoutMs = 60_000): Promise<MetFault> {
    let found: MetFault | undefined;
    await until(`the fault ${id}`, timeoutMs, async () => {
      found = (await this.met()).find(met => met.id === id);
      return found !== undefined;
    });
    return found!;
  }
}

function line({ id, call, path, nth = 0, action, phase = 'before' }: Fault): string {
  return `${id} ${call} ${nth} ${actionText(action)} ${phase} ${path}\n`;
}

function actionText(action: FaultAction): string {
  if (typeof action === 'string') return `${action} 0`;
  if ('fail' in action) return `fail ${constants.errno[action.fail]}`;
  return 'delayMs' in action ? `delay ${action.delayMs}` : `tear ${action.tearBytes}`;
}
