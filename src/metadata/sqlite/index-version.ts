import type { Connection, Statement } from './connection.ts';
import type { Writer } from './writer.ts';

/** Tells whether anything that pulls are answered from may have changed, by whichever process. */
export class IndexVersion {
  readonly #writer: Pick<Writer, 'changes'>;
  readonly #select: Statement<[], number>;
  /** What this process and others had committed at the last look. */
  #ours = 0;
  #theirs = 0;
  #version = 0;

  constructor(connection: Connection, writer: Pick<Writer, 'changes'>) {
    this.#writer = writer;
    // Of another connection's commits, it tells only that there were some. Takes less than 2 µs.
    this.#select = connection.prepare<[], number>('PRAGMA data_version').pluck();
  }

  /** Another number than before if there were changes. Call within a read. */
  look(): number {
    const { changes } = this.#writer;
    const others = this.#select.get() ?? Number.NaN;
    if (changes !== this.#ours || others !== this.#theirs) {
      this.#ours = changes;
      this.#theirs = others;
      this.#version += 1;
    }
    return this.#version;
  }
}
