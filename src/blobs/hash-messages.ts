import type { DigestAlgorithm } from '../oci/digest.ts';

/** What the hashing thread is told. `job` numbers one pass over one file; messages of a job arrive in order. */
export type HashRequest =
  /** Hash the file from its start as far as `length`, for now; at most `bytesPerSecond`, 0 = as fast as it goes. */
  | {
      readonly type: 'begin';
      readonly job: number;
      readonly path: string;
      readonly algorithm: DigestAlgorithm;
      readonly length: number;
      readonly bytesPerSecond: number;
      /** Tell by `progress` how far it is, now and then. */
      readonly tellsProgress: boolean;
    }
  /** The file has grown: so many bytes may be read now. */
  | { readonly type: 'advance'; readonly job: number; readonly length: number }
  /** Answer with the digest of exactly the first `length` bytes, then go on. */
  | { readonly type: 'finish'; readonly job: number; readonly length: number }
  /** Close the file and forget the job; answered with `stopped`. */
  | { readonly type: 'stop'; readonly job: number };

/** What it answers. */
export type HashReply =
  /** So many bytes are hashed; after a death of the thread fewer than before. */
  | { readonly type: 'progress'; readonly job: number; readonly position: number }
  | { readonly type: 'digest'; readonly job: number; readonly hex: string }
  | {
      readonly type: 'failed';
      readonly job: number;
      readonly message: string;
      readonly code: string | undefined;
    }
  | { readonly type: 'stopped'; readonly job: number };
