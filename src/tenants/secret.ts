import {
  type DockerConfig,
  InvalidDockerConfig,
  parsePullSecret,
  pullSecretDataKey,
} from './docker-config.ts';

/** A parsed Kubernetes Secret for pulls. */
export interface PullSecret {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly config: DockerConfig;
}

/** A Secret for pulls whose data is not parsed yet. */
export interface PullSecretText extends Omit<PullSecret, 'config'> {
  readonly type: string;
  /** The value of the type's data key, decoded from base64. */
  readonly text: string;
}

/** Kubernetes' limit for the data of a Secret. */
export const MAX_SECRET_BYTES = 1024 * 1024;

/** More registries than any client logs in to; each is compared on every lookup. */
export const MAX_SECRET_ENTRIES = 1_000;

/** Kubernetes' `[]byte` in JSON: standard base64 with padding, in which line breaks are skipped. */
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** The Secret cannot be parsed. The message shows nothing of its data. */
export class MalformedSecret extends Error {
  override readonly name = 'MalformedSecret';
}

/**
 * A Secret in the form of the Kubernetes API, parsed from JSON or YAML. `stringData` overrides `data`, as in the API
 * server. `undefined` for a Secret that is not a pull secret: another type, the right key with the wrong type, or an
 * empty value. Throws MalformedSecret.
 */
export function parseSecretObject(object: unknown): PullSecret | undefined {
  const { type, data, stringData, metadata } = asMap(object, 'the Secret');
  const dataKey = typeof type === 'string' ? pullSecretDataKey(type) : undefined;
  if (typeof type !== 'string' || dataKey === undefined) return undefined;
  const { name, namespace, uid } = asMap(metadata, 'metadata');
  if (typeof name !== 'string' || name === '') throw new MalformedSecret('it has no name');
  const plain = textOf(asMap(stringData, 'stringData')[dataKey], `stringData of ${dataKey}`);
  const encoded = textOf(asMap(data, 'data')[dataKey], `data of ${dataKey}`);
  return parsePullSecretText({
    type,
    name,
    ...(typeof namespace === 'string' && { namespace }),
    ...(typeof uid === 'string' && { uid }),
    text: plain ?? decodeBase64(encoded ?? ''),
  });
}

/** As `parseSecretObject`, for data that is already decoded. */
export function parsePullSecretText({ type, text, ...identity }: PullSecretText): PullSecret | undefined {
  if (Buffer.byteLength(text) > MAX_SECRET_BYTES) {
    throw new MalformedSecret(`it is larger than ${MAX_SECRET_BYTES} bytes`);
  }
  const config = parseConfig(type, text);
  if (config === undefined) return undefined;
  if (config.size > MAX_SECRET_ENTRIES) {
    throw new MalformedSecret(`it names more than ${MAX_SECRET_ENTRIES} registries`);
  }
  return { ...identity, config };
}

function parseConfig(type: string, text: string): DockerConfig | undefined {
  try {
    return parsePullSecret(type, new Map([[pullSecretDataKey(type) ?? '', text]]));
  } catch (cause) {
    if (cause instanceof InvalidDockerConfig) throw new MalformedSecret(cause.message, { cause });
    throw cause;
  }
}

function decodeBase64(encoded: string): string {
  const compact = encoded.replaceAll(/[\r\n]/g, '');
  if (!BASE64.test(compact)) throw new MalformedSecret('its data is not base64');
  return Buffer.from(compact, 'base64').toString('utf8');
}

function asMap(value: unknown, where: string): Readonly<Record<string, unknown>> {
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) throw new MalformedSecret(`${where} is not a map`);
  return { ...value };
}

function textOf(value: unknown, where: string): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new MalformedSecret(`${where} is not a string`);
  return value;
}
