// Clients of several processes on one store: if one does not respond in time, they ask another, as behind a load
// balancer.
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { get, type Got } from './client.ts';
import { bytesOf, type Content } from './content.ts';
import type { Entrepot } from './entrepot.ts';
import { SlowSender } from './slow-sender.ts';
import type { SyscallShim } from './syscall-shim.ts';

/** A request that takes longer is given up: its process is suspended. */
const PATIENCE_MS = 4_000;
/** A chunk is sent in so many pieces, with a pause before each: most of the time an upload is in a process's hands. */
const PIECES = 4;
/** In between, so that a server is not busy with anything else. */
const RETRY_MS = 200;

export interface Node {
  readonly server: Entrepot;
  readonly shim: SyscallShim;
  isPaused: boolean;
}

export interface UploadOptions {
  readonly repository: string;
  readonly chunkBytes: number;
  readonly pauseMs: number;
  /** Where it is sent while that one answers. */
  readonly home: Node;
}

export class FailoverClient {
  readonly #nodes: readonly Node[];

  constructor(nodes: readonly Node[]) {
    this.#nodes = nodes;
  }

  /** A process that is not known to be suspended. */
  awake(preferred?: Node): Node {
    if (preferred !== undefined && !preferred.isPaused) return preferred;
    return pick(this.#nodes.filter(({ isPaused }) => !isPaused));
  }

  /** The response of any process that is not 429 or 503. */
  async insist(ask: (url: string) => Promise<Got>, preferred?: Node): Promise<Got> {
    for (;;) {
      const got = await this.ask(ask, preferred);
      if (got !== undefined && isFinal(got)) return got;
      await sleep(RETRY_MS);
    }
  }

  /** As `insist`, but nobody else is asked before one has answered, however long that one stands still. */
  async settle(ask: (url: string) => Promise<Got>): Promise<Got> {
    for (;;) {
      const node = this.awake();
      const got = await ask(node.server.url);
      await expectNoFault(node, got.status);
      if (isFinal(got)) return got;
      await sleep(RETRY_MS);
    }
  }

  /** `undefined` if it takes too long. */
  async ask(ask: (url: string) => Promise<Got>, preferred?: Node): Promise<Got | undefined> {
    const node = this.awake(preferred);
    const got = await patiently(ask(node.server.url));
    if (got !== undefined) await expectNoFault(node, got.status);
    return got;
  }

  /** In chunks; whether it was acknowledged. False when the upload is no more, and another one has to be begun. */
  async pushBlob(blob: Content, options: UploadOptions): Promise<boolean> {
    const { repository, chunkBytes, home } = options;
    const begun = await this.insist(
      url => get(`${url}/v2/${repository}/blobs/uploads/`, { method: 'POST' }),
      home,
    );
    const path = begun.headers.location;
    if (begun.status !== 202 || path === undefined)
      throw new Error(`no upload: ${begun.status} ${begun.text}`);
    for (;;) {
      const state = await this.insist(url => get(`${url}${path}`), home);
      if (state.status === 404) return this.isHeld(blob, repository);
      const offset = offsetIn(state);
      const end = Math.min(blob.size, offset + chunkBytes);
      const isLast = end === blob.size;
      const node = this.awake(home);
      const url = `${node.server.url}${path}`;
      const sender = new SlowSender(
        isLast ? 'PUT' : 'PATCH',
        isLast ? `${url}?digest=${blob.digest}` : url,
        end - offset,
        offset < end ? { 'content-range': `${offset}-${end - 1}` } : {},
      );
      const status = await sendSlowly(sender, node, bytesOf(blob).subarray(offset, end), options.pauseMs);
      if (status !== undefined) await expectNoFault(node, status);
      if (status === 201) return true;
      if (status === 404) return this.isHeld(blob, repository);
      if (status !== undefined && status !== 202) await sleep(RETRY_MS);
    }
  }

  /** Begins an upload, sends a part of it, and abandons it. */
  async giveUp(repository: string, bytes: Buffer, how: 'leaving' | 'cancelling'): Promise<void> {
    const begun = await this.insist(url => get(`${url}/v2/${repository}/blobs/uploads/`, { method: 'POST' }));
    const path = begun.headers.location ?? '';
    const node = this.awake();
    if (how === 'leaving') {
      const digest = `sha256:${'0'.repeat(64)}`;
      const sender = new SlowSender('PUT', `${node.server.url}${path}?digest=${digest}`, bytes.length * 2);
      sender.send(bytes);
      await sleep(RETRY_MS);
      sender.leave();
      return;
    }
    await this.ask(url => get(`${url}${path}`, { method: 'PATCH', body: bytes }), node);
    await this.ask(url => get(`${url}${path}`, { method: 'DELETE' }), node);
  }

  /** Whether it belongs to the repository: an upload that is gone may have been finished by an answer that never came. */
  async isHeld(blob: Content, repository: string): Promise<boolean> {
    const ask = (url: string) => get(`${url}/v2/${repository}/blobs/${blob.digest}`, { method: 'HEAD' });
    return (await this.insist(ask)).status === 200;
  }
}

function isFinal({ status }: Got): boolean {
  return status !== 0 && status !== 429 && status < 500;
}

function offsetIn({ headers }: Got): number {
  const range = headers['range'];
  return range === undefined || range === '0-0' ? 0 : Number(range.replace('0-', '')) + 1;
}

/**
 * The status; `undefined` when it takes too long. To a process that stands still it sends other bytes instead, which that
 * one finds in its socket when it wakes; sometimes it leaves then.
 */
async function sendSlowly(
  sender: SlowSender,
  node: Node,
  bytes: Buffer,
  pauseMs: number,
): Promise<number | undefined> {
  const step = Math.max(1, Math.ceil(bytes.length / PIECES));
  for (let sent = 0; sent < bytes.length; sent += step) {
    await sleep(pauseMs);
    const piece = bytes.subarray(sent, sent + step);
    sender.send(node.isPaused ? randomBytes(piece.length) : piece);
  }
  sender.end();
  const status = await patiently(sender.status);
  if (status === undefined && Math.random() < 0.3) sender.leave();
  return status;
}

/** `undefined` if it takes too long: its process is suspended. */
export async function patiently<T>(asking: Promise<T>): Promise<T | undefined> {
  return Promise.race([asking, sleep(PATIENCE_MS).then(() => undefined)]);
}

/** Whatever else is suspended, a process that responds must not answer 500. */
async function expectNoFault({ server }: Node, status: number): Promise<void> {
  if (status !== 500) return;
  await sleep(1_000);
  const faults = server.logs().split('\n');
  throw new Error(`${status}: ${faults.filter(line => line.includes('internal error')).join('\n')}`);
}

export function pick<T>(from: readonly T[]): T {
  const picked = from[Math.floor(Math.random() * from.length)];
  if (picked === undefined) throw new Error('nothing to pick from');
  return picked;
}
