import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Chunk } from '../hosted/chunk.ts';
import type { UploadCalls } from '../hosted/upload-calls.ts';
import { storageTrouble } from '../http/storage-trouble.ts';
import { passedOn, type Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError, type OciErrorCode, type OciErrorOptions } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';
import { callIn } from './call-header.ts';

/** A call for an upload of another replica. The body of the request is that of the client's. */
export interface RemoteUploadCall {
  readonly operation: keyof UploadCalls;
  readonly id: string;
  readonly requester: Requester;
  readonly repository: Repository;
  /** For `complete`. */
  readonly digest?: Digest;
  readonly contentRange?: string | undefined;
  /** The name of the Presence in which the client's request arrived. Other versions send none. */
  readonly during?: string | undefined;
}

/** How a call has ended: with what it returns, or with an error for the client. */
export type UploadAnswer =
  | { readonly offset?: number }
  | { readonly error: { readonly code: OciErrorCode } & Omit<OciErrorOptions, 'cause'> };

/** From this status on, an error is the server's. */
const SERVER_ERROR = 500;

const PATH = /^\/uploads\/(?<operation>status|append|complete|cancel)\/(?<id>[A-Za-z0-9_-]{1,128})$/;

export function pathOfUpload({ operation, id }: Pick<RemoteUploadCall, 'operation' | 'id'>): string {
  return `/uploads/${operation}/${id}`;
}

/** `undefined` if it is a request for something else. */
export function parseUploadCall(req: IncomingMessage): RemoteUploadCall | undefined {
  const { operation, id } = PATH.exec(req.url ?? '')?.groups ?? {};
  if (req.method !== 'POST' || id === undefined) return undefined;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- whoever has the key of the cluster is another replica
  return { ...JSON.parse(callIn(req)), operation, id } as RemoteUploadCall;
}

/** Does what another replica's client asks of an upload of this one, and answers. `during`: as of a `Chunk`. */
export async function answerUploadCall(
  uploads: UploadCalls,
  call: RemoteUploadCall,
  {
    req,
    res,
    during,
    log,
  }: {
    readonly req: IncomingMessage;
    readonly res: ServerResponse;
    readonly during: Presence;
    readonly log: Log;
  },
): Promise<void> {
  let answer: UploadAnswer;
  try {
    answer = await done(uploads, call, { req, during });
  } catch (error) {
    const refusal = error instanceof OciError ? error : storageTrouble(error);
    if (refusal === undefined) throw error;
    const { code, status, message, detail, headers, reason } = refusal;
    // The other replica does not learn the cause.
    if (status >= SERVER_ERROR)
      log.warn(
        { upload: call.id, reason },
        'a request for an upload that another replica passed on has failed',
      );
    answer = { error: { code, message, detail, headers } };
  }
  const body = Buffer.from(JSON.stringify(answer));
  // Of a body that was refused, the rest is not read.
  const connection = req.complete ? {} : { Connection: 'close' };
  res.writeHead(200, {
    'Content-Type': 'application/json',
    'Content-Length': body.byteLength,
    ...connection,
  });
  res.end(body);
}

async function done(
  uploads: UploadCalls,
  call: RemoteUploadCall,
  { req, during }: { readonly req: IncomingMessage; readonly during: Presence },
): Promise<UploadAnswer> {
  const { operation, id, requester, repository, digest, contentRange } = call;
  const length = req.headers['content-length'];
  const contentLength = length === undefined ? undefined : Number(length);
  const chunk: Chunk = { body: req, contentRange, contentLength, during: passedOn(during, call.during) };
  switch (operation) {
    case 'status':
      return uploads.status(requester, repository, id);
    case 'append':
      return uploads.append(requester, repository, id, chunk);
    case 'complete':
      if (digest === undefined || !isDigest(digest)) throw new OciError('DIGEST_INVALID');
      await uploads.complete(requester, repository, id, digest, chunk);
      return {};
    case 'cancel':
      await uploads.cancel(requester, repository, id, chunk);
      return {};
    default:
      throw new OciError('UNSUPPORTED');
  }
}
