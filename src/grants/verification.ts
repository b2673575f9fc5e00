import { createHash } from 'node:crypto';
import { Lru } from '../lib/lru.ts';
import { InvalidReference, parseNormalizedReference, referenceName } from '../oci/reference.ts';
import type { DockerConfigEntry } from '../tenants/docker-config.ts';
import { stringifyLikeGo } from '../tenants/go-encoding.ts';
import {
  isSameObject,
  mergeCredentials,
  type ObjectCoordinates,
  type PulledRecord,
  type RecordedSecret,
} from './pull-record.ts';

/** Kubernetes' `imagePullCredentialsVerificationPolicy`: for which stored images a right must be proved. */
export type VerificationPolicyName =
  | 'NeverVerify'
  | 'NeverVerifyPreloadedImages'
  | 'NeverVerifyAllowlistedImages'
  | 'AlwaysVerify';

/** With this many recorded secrets, matching adds no more, so that short-lived namespaces cannot fill a record. */
export const MAX_SECRETS_ADDED_BY_MATCHING = 100;

/** The allow-list has an entry that the kubelet would refuse. */
export class InvalidAllowlist extends Error {
  constructor(entry: string, why: string) {
    super(`${JSON.stringify(entry.slice(0, 200))}: ${why}`);
    this.name = 'InvalidAllowlist';
  }
}

const REQUIRES: Readonly<
  Record<VerificationPolicyName, (pulledHere: boolean, isAllowlisted: () => boolean) => boolean>
> = {
  NeverVerify: () => false,
  NeverVerifyPreloadedImages: pulledHere => pulledHere,
  NeverVerifyAllowlistedImages: (_pulledHere, isAllowlisted) => !isAllowlisted(),
  AlwaysVerify: () => true,
};

/** The policy with its allow-list: decides whether a stored image needs a proof. */
export class VerificationPolicy {
  readonly #name: VerificationPolicyName;
  readonly #allowlisted: (image: string) => boolean;

  /** `allowlist` has full names without tag and digest, or prefixes that end in `/*`. */
  constructor(name: VerificationPolicyName, allowlist: readonly string[] = []) {
    this.#name = name;
    this.#allowlisted = parseAllowlist(allowlist);
  }

  /** `pulledHere`: the image was or is being pulled; otherwise it was preloaded. */
  requires(image: string, pulledHere: boolean): boolean {
    return REQUIRES[this.#name](pulledHere, () => this.#allowlisted(image));
  }
}

/** What is known of an image that may be stored. */
export interface ImageRecord {
  /** The id of the content; '' if none is stored. */
  readonly imageRef: string;
  readonly record: PulledRecord | 'unreadable' | undefined;
  /** Whether a pull of it is in progress, or was interrupted by a restart. */
  readonly isPulling: boolean;
}

/** The credentials of the pod that asks. */
export interface PodCredentials {
  readonly secrets: readonly RecordedSecret[];
  readonly serviceAccount: ObjectCoordinates | undefined;
}

/**
 * Whether `image`, as written by the requester, must be pulled with the requester's credentials although it may be
 * stored: the kubelet's checks in the kubelet's order. `podCredentials` is called only if it matters. `record` is set
 * if a match added something and is to be stored instead of the one given.
 */
export function mustAttemptImagePull(
  image: string,
  held: ImageRecord,
  policy: VerificationPolicy,
  podCredentials: () => PodCredentials,
): { readonly mustPull: boolean; readonly record?: PulledRecord } {
  const { imageRef, record, isPulling } = held;
  if (imageRef === '' || record === 'unreadable') return { mustPull: true };
  if (!policy.requires(image, record !== undefined || isPulling)) return { mustPull: false };
  const repository = normalizedName(image);
  const recorded = repository === undefined ? undefined : record?.credentialMapping?.[repository];
  if (record === undefined || repository === undefined || recorded === undefined) return { mustPull: true };
  if (recorded.nodePodsAccessible === true) return { mustPull: false };
  const { kubernetesSecrets = [], kubernetesServiceAccounts = [] } = recorded;
  if (kubernetesSecrets.length === 0 && kubernetesServiceAccounts.length === 0) return { mustPull: true };

  const { secrets, serviceAccount } = podCredentials();
  const mayAdd = kubernetesSecrets.length < MAX_SECRETS_ADDED_BY_MATCHING;
  const secret = secrets.find(own => kubernetesSecrets.some(known => secretMatches(own, known, mayAdd)));
  if (secret !== undefined) {
    const taught = mayAdd ? mergeCredentials(record, repository, { kubernetesSecrets: [secret] }) : record;
    return taught === record ? { mustPull: false } : { mustPull: false, record: taught };
  }
  const isKnown =
    serviceAccount !== undefined && kubernetesServiceAccounts.some(a => isSameObject(a, serviceAccount));
  return { mustPull: !isKnown };
}

/** The kubelet's hash of a credential: SHA-256, in hex, of its JSON without empty members. */
export function credentialHash(credential: Partial<DockerConfigEntry>): string {
  const { username, password, email } = credential;
  const members = { ...(username && { username }), ...(password && { password }), ...(email && { email }) };
  return createHash('sha256').update(stringifyLikeGo(members)).digest('hex');
}

/**
 * The same content, wherever it is stored; or the same object with other content, while new ones may still be added.
 */
function secretMatches(own: RecordedSecret, known: RecordedSecret, mayAdd: boolean): boolean {
  const isSameContent = known.credentialHash !== '' && own.credentialHash === known.credentialHash;
  return isSameContent || (mayAdd && isSameObject(own, known));
}

function parseAllowlist(entries: readonly string[]): (image: string) => boolean {
  const names = new Set<string>();
  const prefixes: string[] = [];
  for (const entry of entries) {
    if (entry.endsWith('/*')) prefixes.push(parsePrefix(entry));
    else names.add(parseName(entry));
  }
  return image => {
    const name = normalizedName(image);
    return name !== undefined && (names.has(name) || prefixes.some(prefix => name.startsWith(prefix)));
  };
}

/** `reg.example/team/*` → `reg.example/team/`. */
function parsePrefix(entry: string): string {
  const prefix = entry.slice(0, -1);
  if (prefix === '/') throw new InvalidAllowlist(entry, 'the registry is missing');
  requirePlain(entry, prefix);
  return prefix;
}

function parseName(entry: string): string {
  requirePlain(entry, entry);
  if (normalizedName(entry) !== entry) {
    throw new InvalidAllowlist(entry, 'expected a full name with its registry, and without a tag or digest');
  }
  return entry;
}

function requirePlain(entry: string, text: string): void {
  if (entry !== entry.trim()) throw new InvalidAllowlist(entry, 'has leading or trailing spaces');
  if (text.includes('*')) throw new InvalidAllowlist(entry, 'a * is allowed only at the end, after a slash');
}

/**
 * Parsing a name costs as much as everything else that is decided about a request, so names of current pulls are
 * remembered.
 */
const names = new Lru<{ readonly name: string | undefined }>({ maxEntries: 10_000 });

/** The repository that `image` means, without tag and digest; `undefined` if it is not a reference. */
export function normalizedName(image: string): string | undefined {
  const known = names.get(image);
  if (known !== undefined) return known.name;
  const name = readName(image);
  names.set(image, { name });
  return name;
}

function readName(image: string): string | undefined {
  try {
    return referenceName(parseNormalizedReference(image));
  } catch (error) {
    if (error instanceof InvalidReference) return undefined;
    throw error;
  }
}
