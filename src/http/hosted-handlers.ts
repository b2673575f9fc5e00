import type { OutgoingHttpHeaders } from 'node:http';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';
import type { Exchange } from './exchange.ts';
import type { Action } from '../access/subject.ts';

/** A request that has passed `Access`: who, where, and with which right. */
export interface Call {
  /** Read the request body from `exchange.req`, answer with `answer(exchange, status, headers, body?)`; throw OciError. */
  readonly exchange: Exchange;
  readonly repository: Repository;
  /** The name as it stood in the path, upstream prefix and all: what `Location` and `Link` are built of (`pathTo`). */
  readonly name: string;
  readonly requester: Requester;
  readonly right: Right;
  /** Settles a right on another repository (a mount's source), for this requester; throws OciError. */
  authorize(repository: Repository, action: Action): Promise<Right>;
}

export interface ManifestCall extends Call {
  /** A tag or a digest, valid as such. */
  readonly reference: string;
}

export interface BlobCall extends Call {
  readonly digest: Digest;
}

export interface UploadCall extends Call {
  /** `[A-Za-z0-9_-]{1,128}`; that it belongs to this repository and requester is for the handler to see. */
  readonly id: string;
}

export interface CatalogCall {
  readonly exchange: Exchange;
  /** Whether the one who asks may know of the repository. */
  maySee(repository: Repository): Promise<boolean>;
  /** Answers with a list. */
  send(headers: OutgoingHttpHeaders, list: unknown): Promise<void>;
}

/** The write side of the API, for repositories that live here. Each answers the exchange, or throws. */
export interface HostedHandlers {
  /** PUT /v2/NAME/manifests/REFERENCE */
  putManifest(call: ManifestCall): Promise<void>;
  /** DELETE /v2/NAME/manifests/REFERENCE */
  deleteManifest(call: ManifestCall): Promise<void>;
  /** DELETE /v2/NAME/blobs/DIGEST */
  deleteBlob(call: BlobCall): Promise<void>;
  /** POST /v2/NAME/blobs/uploads/: new, monolithic (`?digest=`), or mount (`?mount=&from=`) */
  startUpload(call: Call): Promise<void>;
  /** GET /v2/NAME/blobs/uploads/ID */
  readUpload(call: UploadCall): Promise<void>;
  /** PATCH */
  appendUpload(call: UploadCall): Promise<void>;
  /** PUT `?digest=` */
  finishUpload(call: UploadCall): Promise<void>;
  /** DELETE */
  cancelUpload(call: UploadCall): Promise<void>;
  /** GET /v2/_catalog */
  catalog(call: CatalogCall): Promise<void>;
}
