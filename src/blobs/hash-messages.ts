import type { DigestAlgorithm } from '../oci/digest.ts';

/** Messages to the hashing thread. `job` identifies one pass over one file; messages of a job arrive in order. */
export type HashRequest =
  /** Hash the file from its start up to `length`, for now; at most `bytesPerSecond`, 0 for no limit. */
  | {
      readonly type: 'begin';
      readonly job: number;
      readonly path: string;
      readonly algorithm: DigestAlgorithm;
      readonly length: number;
      readonly bytesPerSecond: number;
      /** Whether to report progress. */
      readonly tellsProgress: boolean;
    }
  /** The file has grown: this many bytes may be read now. */
  | { readonly type: 'advance'; readonly job: number; readonly length: number }
  /** Reply with the digest of exactly the first `length` bytes, then continue. */
  | { readonly type: 'finish'; readonly job: number; readonly length: number }
  /** Close the file and forget the job; the reply is `stopped`. */
  | { readonly type: 'stop'; readonly job: number };

/** Messages from the hashing thread. */
export type HashReply =
  /** How many bytes are hashed. May decrease after the thread has died. */
  | { readonly type: 'progress'; readonly job: number; readonly position: number }
  | { readonly type: 'digest'; readonly job: number; readonly hex: string }
  | {
      readonly type: 'failed';
      readonly job: number;
      readonly message: string;
      readonly code: string | undefined;
    }
  | { readonly type: 'stopped'; readonly job: number };
