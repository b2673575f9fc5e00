import { extract, pack } from 'tar-stream';
import { ArchiveError } from './archive-error.ts';
import { checkedHeaders, notTar } from './tar-headers.ts';

/** An entry of a tar. The body must be read to its end, or the iteration ended. */
export interface TarEntry {
  /** As in the archive, not validated. */
  readonly name: string;
  /** `file`, `directory`, `symlink`, `link`, `character-device` … */
  readonly type: string;
  /** The size of the body by its header; a shorter body is an error. */
  readonly size: number;
  readonly body: AsyncIterable<Uint8Array>;
}

/** The same content must give the same bytes: no time, no owner, and a mode with which everybody can read it. */
const FIXED_HEADER = { type: 'file', mode: 0o644, mtime: new Date(0), uid: 0, gid: 0 } as const;

/** The part of tar-stream's streams that is used; they resemble Node's but differ. */
interface Sink {
  write(chunk: Uint8Array): boolean;
  end(last: undefined): unknown;
  on(event: 'error', listener: () => void): unknown;
  once(event: 'drain' | 'close', listener: () => void): unknown;
  off(event: 'drain' | 'close', listener: () => void): unknown;
}

type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Writes a tar, one entry after the other. Iterating over it returns the bytes, as slowly as they are consumed. */
export class TarWriter {
  readonly #pack = pack();

  /** `chunks` must have `size` bytes in total, and must not be modified afterwards. */
  async add(name: string, size: number, chunks: Chunks): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const sink = this.#pack.entry({ ...FIXED_HEADER, name, size }, error => {
        if (error) reject(error);
        else resolve();
      });
      // The callback gets the error; without a listener the event would end the process.
      sink.on('error', () => {});
      feed(chunks, sink).catch(reject);
    });
  }

  end(): void {
    this.#pack.finalize();
  }

  /** Ends the bytes with an error. */
  destroy(error?: Error): void {
    this.#pack.destroy(error);
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return bytesOf(this.#pack);
  }
}

/** The tar that `write` produces, as fast as it is consumed; when the consumer stops, writing ends. */
export async function* packed(write: (tar: TarWriter) => Promise<void>): AsyncGenerator<Uint8Array, void> {
  const tar = new TarWriter();
  const writing = write(tar).then(
    () => tar.end(),
    (error: unknown) => tar.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  try {
    yield* tar;
  } finally {
    tar.destroy();
    await writing;
  }
}

/** The entries of a tar in order, each while its bytes arrive. Throws ArchiveError if it is not a valid tar. */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry, void> {
  const entries = extract();
  let count = 0;
  let failure: unknown;
  const feeding = feed(checkedHeaders(source), entries).catch((error: unknown) => {
    failure = error;
    entries.destroy();
  });
  // The error of the source (a damaged gzip, a broken pipe) is more useful than its effect on the tar.
  const reason = (error: unknown): unknown =>
    failure ?? (count === 0 ? notTar(textOf(error)) : damaged(error));
  try {
    for await (const entry of explained(entries, reason)) {
      count += 1;
      const { name, type, size } = entry.header;
      // tar-stream reads an invalid number as null, and would wait for such a body for ever.
      if (typeof size !== 'number') throw damaged(new Error('Invalid size'));
      const body = explained(bytesOf(entry), reason);
      yield { name, type: type ?? 'unknown', size, body };
      entry.resume();
    }
  } finally {
    entries.destroy();
    await feeding;
  }
  if (failure !== undefined) throw failure;
}

/** The output of `stream`, with its error replaced by the result of `reason`. */
async function* explained<T>(
  stream: AsyncIterable<T>,
  reason: (error: unknown) => unknown,
): AsyncGenerator<T, void> {
  const iterator = stream[Symbol.asyncIterator]();
  const next = () =>
    iterator.next().catch((error: unknown) => {
      throw reason(error);
    });
  try {
    for (let step = await next(); step.done !== true; step = await next()) yield step.value;
  } finally {
    await iterator.return?.();
  }
}

function damaged(error: unknown): ArchiveError {
  return new ArchiveError(`the tar is damaged or truncated: ${textOf(error)}`);
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Writes all `chunks` and ends the stream. Rejects if the stream is closed before it has taken them. */
async function feed(chunks: Chunks, stream: Sink): Promise<void> {
  for await (const chunk of chunks) {
    if (!stream.write(chunk)) await drained(stream);
  }
  stream.end(undefined);
}

function drained(stream: Sink): Promise<void> {
  return new Promise((resolve, reject) => {
    const onDrain = (): void => {
      stream.off('close', onClose);
      resolve();
    };
    const onClose = (): void => {
      stream.off('drain', onDrain);
      reject(new Error('the tar stream was closed'));
    };
    stream.once('drain', onDrain);
    stream.once('close', onClose);
  });
}

async function* bytesOf(stream: AsyncIterable<unknown>): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of stream) {
    if (!(chunk instanceof Uint8Array))
      throw new TypeError('a tar stream returned something other than bytes');
    yield chunk;
  }
}
