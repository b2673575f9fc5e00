import type { SigningKeys } from './signature.ts';

/** Where the keys come from that sign requests. */
export type CredentialsFrom = 'env' | 'file' | 'webIdentity' | 'instance';

/** A bucket, and how it is reached. Can be passed to a thread. */
export interface S3Settings {
  /** Scheme, host and port. */
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  /** What all keys begin with: '', or ending in a slash. */
  readonly prefix: string;
  /** Whether the bucket is in the path rather than in the host. */
  readonly pathStyle: boolean;
  /** Whether clients are given URLs of objects. */
  readonly redirect?: boolean;
  /** CA certificates of the endpoint, PEM. Default: those of Node. */
  readonly ca?: string | undefined;
  readonly credentials: CredentialsSettings;
}

export interface CredentialsSettings {
  readonly from: CredentialsFrom;
  /** The path for `file`. */
  readonly file?: string | undefined;
  /** Of `env`, those that are set. */
  readonly keys?: SigningKeys | undefined;
  /** For `webIdentity`. */
  readonly role?: string | undefined;
  readonly tokenFile?: string | undefined;
  /** The URL of the security token service. Default: that of AWS in the region. */
  readonly stsUrl?: string | undefined;
  /** The URL of the instance's metadata service. Default: its fixed address. */
  readonly metadataUrl?: string | undefined;
}
