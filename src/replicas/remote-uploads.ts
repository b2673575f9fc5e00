import type { ClientRequest, IncomingMessage } from 'node:http';
import { finished, type Readable } from 'node:stream';
import type { Arrived, Chunk } from '../hosted/chunk.ts';
import type { UploadCalls, UploadState } from '../hosted/upload-calls.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';
import { callHeader } from './call-header.ts';
import { readJsonBody } from './json-body.ts';
import { pathOfUpload, type RemoteUploadCall, type UploadAnswer } from './upload-requests.ts';

/**
 * How long nothing of a body may be taken, as by a replica that is suspended. Longer than the other replica waits for the client
 * (`BODY_IDLE_MS`), so that it decides as long as it lives.
 */
const TAKEN_WITHIN_MS = 90_000;
/** How often that is checked, and how often the index is asked whether a replica that has taken a whole body is alive. */
const LOOK_MS = 10_000;
/** Anything longer is not a valid Content-Range, and neither is its beginning. Clients may send longer headers than replicas. */
const MAX_RANGE_CHARACTERS = 100;
/** How long an answer to a request without a body may take. Clients wait for 20 s. */
const ANSWERED_WITHIN_MS = 15_000;

/** Sends a request to another replica; the response to what `send` writes. Rejects if it cannot be reached. */
export type Post = (
  path: string,
  headers: Readonly<Record<string, string>>,
  send: (to: ClientRequest) => void,
) => Promise<IncomingMessage>;

export interface RemoteUploadsOptions {
  readonly post: Post;
  /** Whether the index says that the replica lives. */
  readonly isAlive: () => Promise<boolean>;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/** The uploads of another replica. */
export class RemoteUploads implements UploadCalls {
  readonly #post: Post;
  readonly #isAlive: () => Promise<boolean>;
  readonly #clock: Clock;

  constructor({ post, isAlive, clock = systemClock }: RemoteUploadsOptions) {
    this.#post = post;
    this.#isAlive = isAlive;
    this.#clock = clock;
  }

  status(requester: Requester, repository: Repository, id: string): Promise<UploadState> {
    return this.#state({ operation: 'status', requester, repository, id });
  }

  append(requester: Requester, repository: Repository, id: string, chunk: Chunk): Promise<UploadState> {
    return this.#state({ operation: 'append', requester, repository, id }, chunk);
  }

  async complete(
    requester: Requester,
    repository: Repository,
    id: string,
    digest: Digest,
    chunk: Chunk,
  ): Promise<void> {
    await this.#call({ operation: 'complete', requester, repository, id, digest }, chunk);
  }

  async cancel(requester: Requester, repository: Repository, id: string, { during }: Arrived): Promise<void> {
    await this.#call({ operation: 'cancel', requester, repository, id }, { during });
  }

  async #state(call: RemoteUploadCall, chunk?: Chunk): Promise<UploadState> {
    const { offset = 0 } = await this.#call(call, chunk);
    return { id: call.id, offset };
  }

  async #call(call: RemoteUploadCall, chunk?: Partial<Chunk>): Promise<{ readonly offset?: number }> {
    const answer = await this.#ask(call, chunk).catch((cause: unknown) => {
      throw new OciError('UNAVAILABLE', {
        message: 'the replica that has this upload cannot be reached: try again',
        headers: { 'Retry-After': '1' },
        cause,
      });
    });
    if (!('error' in answer)) return answer;
    const { code, ...options } = answer.error;
    throw new OciError(code, options);
  }

  async #ask(
    { operation, id, ...call }: RemoteUploadCall,
    chunk: Partial<Chunk> = {},
  ): Promise<UploadAnswer> {
    const { body, contentLength, during } = chunk;
    const contentRange = chunk.contentRange?.slice(0, MAX_RANGE_CHARACTERS);
    const length = body === undefined ? 0 : contentLength;
    const headers = {
      ...callHeader(JSON.stringify({ ...call, contentRange, during: during?.name })),
      ...(length === undefined ? { 'Transfer-Encoding': 'chunked' } : { 'Content-Length': String(length) }),
    };
    let stop: (() => void) | undefined;
    try {
      const response = await this.#post(pathOfUpload({ operation, id }), headers, to => {
        stop =
          body === undefined
            ? ask(to, this.#clock)
            : pass(body, to, { clock: this.#clock, isAlive: this.#isAlive });
      });
      return await readJsonBody<UploadAnswer>(response);
    } finally {
      stop?.();
    }
  }
}

/** Sends a request without a body, which is broken off if no answer comes. Returns a function that stops this. */
function ask(to: ClientRequest, clock: Clock): () => void {
  const late = () => to.destroy(new Error(`no answer within ${ANSWERED_WITHIN_MS / 1000} s`));
  const timer = clock.after(ANSWERED_WITHIN_MS, late).unref();
  to.end();
  return () => timer.cancel();
}

/**
 * Passes the body of a client on, no faster than it is taken. Breaks the request off if the client leaves, if the replica stops
 * taking bytes, or if it has taken everything but is dead. Returns a function that stops this and leaves the body as it is.
 */
function pass(
  body: Readable,
  to: ClientRequest,
  { clock, isAlive }: Pick<RemoteUploadsOptions, 'isAlive'> & { readonly clock: Clock },
): () => void {
  const unwatch = finished(body, { writable: false }, error => {
    if (error != null) to.destroy(error);
  });
  let sentBytes = 0;
  let movedAtMs = clock.monotonicMs();
  const look = () => {
    const { bytesWritten = 0 } = to.socket ?? {};
    if (bytesWritten > sentBytes) movedAtMs = clock.monotonicMs();
    sentBytes = bytesWritten;
    if (clock.monotonicMs() - movedAtMs < TAKEN_WITHIN_MS) timer = clock.after(LOOK_MS, look).unref();
    else to.destroy(new Error(`it took nothing of the body for ${TAKEN_WITHIN_MS / 1000} s`));
  };
  let timer = clock.after(LOOK_MS, look).unref();
  let isOver = false;
  // What follows may take longer, since the blob is stored. A replica that seems dead does not store it even if it resumes.
  const lookForLife = async () => {
    const lives = await isAlive().catch(() => true);
    if (isOver) return;
    if (lives) timer = clock.after(LOOK_MS, () => void lookForLife()).unref();
    else to.destroy(new Error('it has taken the whole body, but no longer seems to be alive'));
  };
  to.once('finish', () => {
    timer.cancel();
    timer = clock.after(LOOK_MS, () => void lookForLife()).unref();
  });
  body.pipe(to);
  return () => {
    isOver = true;
    timer.cancel();
    unwatch();
    body.unpipe(to);
    if (!to.writableFinished) to.destroy();
  };
}
