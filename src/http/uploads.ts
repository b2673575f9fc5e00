import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import type { Chunk } from '../hosted/chunk.ts';
import { uploadRange } from '../hosted/content-range.ts';
import type { ClientUploads } from '../hosted/shared-uploads.ts';
import type { UploadState } from '../hosted/upload-calls.ts';
import { type Digest, parseDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { isRepositoryName } from '../oci/reference.ts';
import { answer, pathTo } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { Call, HostedHandlers, UploadCall } from './hosted-handlers.ts';

/**
 * `OCI-Chunk-Min-Length`: each chunk costs a request, a Lease and a few file operations, whatever its size. As in the
 * spec, this is only advice; smaller chunks are accepted.
 */
const CHUNK_MIN_LENGTH = 64 * 1024;

type UploadHandlers = Pick<
  HostedHandlers,
  'startUpload' | 'readUpload' | 'appendUpload' | 'finishUpload' | 'cancelUpload'
>;

/** Pushing blobs (distribution-spec, "Pushing blobs"). */
export function uploadHandlers(uploads: ClientUploads): UploadHandlers {
  return {
    async startUpload(call) {
      const { exchange, requester, repository } = call;
      const { query } = exchange;
      const mount = query.get('mount');
      const digest = query.get('digest');
      if (mount !== null) {
        const wanted = parseDigest(mount);
        if (await mountBlob(uploads, call, wanted)) return answerCreated(call, wanted);
      } else if (digest !== null) {
        const pushed = parseDigest(digest);
        await uploads.push(requester, repository, pushed, chunkOf(exchange));
        return answerCreated(call, pushed);
      }
      const begun = await uploads.begin(requester, repository, query.get('digest-algorithm') ?? undefined);
      answerState(call, 202, begun, { 'OCI-Chunk-Min-Length': CHUNK_MIN_LENGTH });
    },

    async readUpload(call) {
      answerState(call, 204, await uploads.status(call.requester, call.repository, call.id));
    },

    async appendUpload(call) {
      const { exchange, requester, repository, id } = call;
      const state = await sayingWhere(call, () =>
        uploads.append(requester, repository, id, chunkOf(exchange)),
      );
      answerState(call, 202, state);
    },

    async finishUpload(call) {
      const { exchange, requester, repository, id } = call;
      const digest = parseDigest(exchange.query.get('digest') ?? '');
      await sayingWhere(call, () => uploads.complete(requester, repository, id, digest, chunkOf(exchange)));
      answerCreated(call, digest);
    },

    async cancelUpload(call) {
      await uploads.cancel(call.requester, call.repository, call.id, call.exchange);
      answer(call.exchange, 204, {});
    },
  };
}

/** Mounts the blob. False if that is not possible, whatever the reason, so that none is revealed. */
async function mountBlob(uploads: ClientUploads, call: Call, digest: Digest): Promise<boolean> {
  const { query, during } = call.exchange;
  const from = query.get('from');
  if (from === null) return uploads.mount(call.repository, digest, { from: call.repository, during });
  if (!isRepositoryName(from)) return false;
  const source = { upstream: '', name: from };
  try {
    await call.authorize(source, 'pull');
  } catch (error) {
    if (error instanceof OciError) return false;
    throw error;
  }
  return uploads.mount(call.repository, digest, { from: source, during });
}

/** Adds to the response for a chunk out of order how far the upload is (distribution-spec, end-5). */
async function sayingWhere<T>(call: UploadCall, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof OciError) || error.code !== 'RANGE_INVALID') throw error;
    const { message, detail, headers } = error;
    throw new OciError('RANGE_INVALID', {
      message,
      detail,
      headers: { ...headers, Location: uploadPath(call, call.id) },
      cause: error,
    });
  }
}

function answerState(
  call: Call,
  status: number,
  state: UploadState,
  headers: OutgoingHttpHeaders = {},
): void {
  answer(call.exchange, status, {
    ...headers,
    Location: uploadPath(call, state.id),
    Range: uploadRange(state.offset),
    'Docker-Upload-UUID': state.id,
  });
}

function answerCreated(call: Call, digest: Digest): void {
  answer(call.exchange, 201, {
    Location: pathTo(call.exchange, call.name, `blobs/${digest}`),
    'Docker-Content-Digest': digest,
  });
}

function uploadPath({ exchange, name }: Call, id: string): string {
  return pathTo(exchange, name, `blobs/uploads/${id}`);
}

function chunkOf({ req, during }: Exchange): Chunk {
  const contentRange = req.headers['content-range'];
  return { body: req, contentRange, contentLength: contentLengthOf(req), during };
}

/** Content-Length as a number. Node has checked that it is one, and enforces it. */
export function contentLengthOf(req: IncomingMessage): number | undefined {
  const header = req.headers['content-length'];
  return header === undefined ? undefined : Number(header);
}
