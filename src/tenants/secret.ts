import { type DockerConfig, InvalidDockerConfig, parsePullSecret } from './docker-config.ts';

/** A Kubernetes Secret for pulls, read and understood. */
export interface PullSecret {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly config: DockerConfig;
}

/** A Kubernetes Secret as it was received: from a manifest, a mounted folder, or the API. */
export interface RawSecret {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly type: string;
  /** Decoded from base64. */
  readonly data: ReadonlyMap<string, string>;
}

/** Kubernetes' own limit for the data of a Secret, bytes. */
export const MAX_SECRET_BYTES = 1024 * 1024;

/** More registries than any client logs in to; each key costs a comparison on every look-up. */
export const MAX_SECRET_ENTRIES = 1_000;

/** The Secret cannot be read. The message shows nothing of its data. */
export class MalformedSecret extends Error {
  override readonly name = 'MalformedSecret';
}

/**
 * `undefined` for a Secret that is none for pulls: another type, the right key under the wrong type, or an empty value.
 * Throws MalformedSecret.
 */
export function parseSecret(raw: RawSecret): PullSecret | undefined {
  const { type, data, ...identity } = raw;
  const bytes = [...data.values()].reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  if (bytes > MAX_SECRET_BYTES) throw new MalformedSecret(`holds over ${MAX_SECRET_BYTES} bytes`);
  const config = parseConfig(type, data);
  if (config === undefined) return undefined;
  if (config.size > MAX_SECRET_ENTRIES) {
    throw new MalformedSecret(`names over ${MAX_SECRET_ENTRIES} registries`);
  }
  return { ...identity, config };
}

function parseConfig(type: string, data: ReadonlyMap<string, string>): DockerConfig | undefined {
  try {
    return parsePullSecret(type, data);
  } catch (cause) {
    if (cause instanceof InvalidDockerConfig) throw new MalformedSecret(cause.message, { cause });
    throw cause;
  }
}
