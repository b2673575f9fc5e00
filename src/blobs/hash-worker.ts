/**
 * The hashing thread of a store. It reads files behind their writers and hashes them, so that no byte is copied between
 * threads and the event loop never hashes. All jobs share one buffer and take turns, a slice each. Reads are
 * synchronous, since the thread has nothing else to do; messages are received between slices.
 */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, readSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { errorCode } from '../lib/error-code.ts';
import { pageAligned } from '../lib/page-aligned.ts';
import { openRegularFileSync } from '../lib/regular-file.ts';
import type { HashReply, HashRequest } from './hash-messages.ts';
import { shortFile } from './unreadable.ts';

/** Large enough that the read call is cheap compared to hashing, small enough that 64 jobs take turns within 50 ms. */
const SLICE_BYTES = 512 * 1024;

/** For a progress display. */
const PROGRESS_MS = 500;

interface Job {
  readonly id: number;
  readonly descriptor: number;
  readonly hash: Hash;
  readonly bytesPerSecond: number;
  position: number;
  /** Bytes that may be read. */
  available: number;
  /** The length at which a digest is requested, if any. */
  finishAt: number | undefined;
  /** By `performance.now()`: the rate allows no read before. */
  notBeforeMs: number;
  /** By `performance.now()`: when to report progress next; Infinity for never. */
  tellAtMs: number;
}

const jobs = new Map<number, Job>();
const slice = pageAligned(SLICE_BYTES);
let scheduled: NodeJS.Immediate | undefined;
let pause: NodeJS.Timeout | undefined;

function reply(message: HashReply): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(message);
}

function fail(job: number, error: unknown): void {
  const code = errorCode(error);
  reply({ type: 'failed', job, message: error instanceof Error ? error.message : String(error), code });
}

function forget(job: Job): void {
  jobs.delete(job.id);
  closeSync(job.descriptor);
}

function receive(request: HashRequest): void {
  if (request.type === 'begin') {
    begin(request);
    return;
  }
  const job = jobs.get(request.job);
  if (request.type === 'stop') {
    if (job !== undefined) {
      forget(job);
    }
    reply({ type: 'stopped', job: request.job });
  } else if (job !== undefined) {
    job.available = Math.max(job.available, request.length);
    if (request.type === 'finish') {
      job.finishAt = request.length;
    }
  }
}

function begin(request: Extract<HashRequest, { type: 'begin' }>): void {
  try {
    jobs.set(request.job, {
      id: request.job,
      descriptor: openRegularFileSync(request.path),
      hash: createHash(request.algorithm),
      bytesPerSecond: request.bytesPerSecond,
      position: 0,
      available: request.length,
      finishAt: undefined,
      notBeforeMs: 0,
      tellAtMs: request.tellsProgress ? performance.now() + PROGRESS_MS : Number.POSITIVE_INFINITY,
    });
  } catch (error) {
    fail(request.job, error);
  }
}

/** Hashes one slice, and replies if that completes a request. */
function step(job: Job): void {
  const end = job.finishAt ?? job.available;
  if (job.position < end) {
    const wanted = Math.min(SLICE_BYTES, end - job.position);
    const count = readSync(job.descriptor, slice, 0, wanted, job.position);
    if (count === 0) {
      throw shortFile(`the file ends at ${job.position} of ${end} bytes`);
    }
    job.hash.update(slice.subarray(0, count));
    job.position += count;
    if (job.bytesPerSecond > 0) {
      const earliestMs = Math.max(job.notBeforeMs, performance.now());
      job.notBeforeMs = earliestMs + (count / job.bytesPerSecond) * 1000;
    }
    if (performance.now() >= job.tellAtMs) {
      job.tellAtMs = performance.now() + PROGRESS_MS;
      reply({ type: 'progress', job: job.id, position: job.position });
    }
  }
  if (job.position === job.finishAt) {
    job.finishAt = undefined;
    reply({ type: 'digest', job: job.id, hex: job.hash.copy().digest('hex') });
  }
}

function hasWork(job: Job): boolean {
  return job.finishAt !== undefined || job.position < job.available;
}

/** Lets every job that has work and is within its rate hash one slice. */
function turn(): void {
  scheduled = undefined;
  const nowMs = performance.now();
  for (const job of jobs.values()) {
    if (hasWork(job) && job.notBeforeMs <= nowMs) {
      try {
        step(job);
      } catch (error) {
        forget(job);
        fail(job.id, error);
      }
    }
  }
  schedule();
}

function schedule(): void {
  clearTimeout(pause);
  if (scheduled !== undefined) {
    return;
  }
  const dueAtMs = Math.min(...[...jobs.values()].filter(hasWork).map(job => job.notBeforeMs));
  const waitMs = dueAtMs - performance.now();
  if (waitMs <= 0) {
    scheduled = setImmediate(turn);
  } else if (Number.isFinite(waitMs)) {
    pause = setTimeout(turn, waitMs);
  }
}

parentPort?.on('message', (request: HashRequest) => {
  receive(request);
  schedule();
});
