// The connection between a fake upstream and its clients: sends bodies at a rate, and breaks where told.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

/** A rate that is shared by everything sent over it. */
export class Link {
  readonly #bytesPerS: number;
  #freeAtMs = 0;

  constructor(bytesPerS: number = Number.POSITIVE_INFINITY) {
    this.#bytesPerS = bytesPerS;
  }

  /** How much to send at a time, so that a slow line drips instead of gushing. */
  get pieceBytes(): number {
    return Math.max(1, Math.ceil(this.#bytesPerS / 20));
  }

  /** Waits until `bytes` may go out. */
  async take(bytes: number): Promise<void> {
    if (this.#bytesPerS === Number.POSITIVE_INFINITY) return;
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes / this.#bytesPerS) * 1000;
    const waitMs = this.#freeAtMs - nowMs;
    // Timers are a millisecond late each: short debts are carried over instead of slept off.
    if (waitMs > 4) await sleep(waitMs);
  }
}

/** Lets so many bytes pass, and all others when `until` resolves. */
export class Gate {
  readonly pieceBytes = 64 * 1024;
  readonly #until: Promise<unknown>;
  #leftBytes: number;

  constructor({ atByte, until }: { readonly atByte: number; readonly until: Promise<unknown> }) {
    this.#leftBytes = atByte;
    this.#until = until;
  }

  async take(bytes: number): Promise<void> {
    this.#leftBytes -= bytes;
    if (this.#leftBytes < 0) await this.#until;
  }
}

export interface SendOptions {
  readonly links: readonly (Link | Gate)[];
  /** Destroys the socket after so many bytes of the body. */
  readonly cutAtByte?: number | undefined;
  /** Sends nothing more after so many bytes, and keeps the connection open. */
  readonly hangAtByte?: number | undefined;
  /** Flips the bits of the byte at this place of the body. */
  readonly corruptByte?: number | undefined;
  readonly onSent: (bytes: number) => void;
}

/** Sends a body after its headers. Resolves when it is sent, broken off, or the client has gone. */
export async function sendBody(
  response: ServerResponse,
  pieces: Iterable<Buffer>,
  options: SendOptions,
): Promise<void> {
  const { cutAtByte = Number.POSITIVE_INFINITY, hangAtByte = Number.POSITIVE_INFINITY } = options;
  const stopAt = Math.min(cutAtByte, hangAtByte);
  const pieceBytes = Math.min(...options.links.map(link => link.pieceBytes));
  let sent = 0;
  for (const whole of split(pieces, pieceBytes)) {
    const piece = corrupted(whole.subarray(0, Math.max(0, stopAt - sent)), sent, options.corruptByte);
    for (const link of options.links) await link.take(piece.length);
    if (response.destroyed) return;
    if (piece.length > 0 && !response.write(piece)) await writable(response);
    sent += piece.length;
    options.onSent(piece.length);
    if (sent >= stopAt) break;
  }
  if (sent >= cutAtByte) await flushAndDestroy(response);
  else if (sent >= hangAtByte) await once(response, 'close');
  else response.end();
}

function* split(pieces: Iterable<Buffer>, pieceBytes: number): Iterable<Buffer> {
  for (const piece of pieces) {
    if (piece.length <= pieceBytes) yield piece;
    else for (let at = 0; at < piece.length; at += pieceBytes) yield piece.subarray(at, at + pieceBytes);
  }
}

function corrupted(piece: Buffer, at: number, corruptByte: number | undefined): Buffer {
  if (corruptByte === undefined || corruptByte < at || corruptByte >= at + piece.length) return piece;
  const copy = Buffer.from(piece);
  copy[corruptByte - at] = (copy[corruptByte - at] ?? 0) ^ 0xff;
  return copy;
}

async function writable(response: ServerResponse): Promise<void> {
  const left = new AbortController();
  await Promise.race([
    once(response, 'drain', { signal: left.signal }),
    once(response, 'close', { signal: left.signal }),
  ]).finally(() => left.abort());
}

/** What was written reaches the client before the connection breaks. */
async function flushAndDestroy(response: ServerResponse): Promise<void> {
  response.flushHeaders();
  await new Promise<void>(resolve => {
    const { socket } = response;
    if (socket === null || socket.destroyed) resolve();
    else socket.end(() => resolve());
  });
  response.destroy();
}
