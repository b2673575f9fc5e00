import { OciError } from './errors.ts';

/**
 * The parts of `registry/repository:tag@digest` (distribution's reference grammar). `registry` is '' only in the result
 * of `parseReference` for a name without a domain, and for a bare digest.
 */
export interface Reference {
  readonly registry: string;
  readonly repository: string;
  readonly tag?: string;
  /** Well-formed for its algorithm; `parseDigest` checks whether the algorithm is supported here. */
  readonly digest?: string;
}

/** Why a text is not a reference. */
export type ReferenceFault =
  | 'format'
  | 'empty'
  | 'uppercase'
  | 'too-long'
  | 'identifier-as-name'
  | 'digest-unsupported'
  | 'digest-length'
  | 'digest-format';

const FAULTS: Readonly<Record<ReferenceFault, string>> = {
  format: 'invalid reference format',
  empty: 'empty reference',
  uppercase: 'repository name must be lower-case',
  'too-long': 'reference is too long',
  'identifier-as-name': '64 hexadecimal characters are an image ID, not a name',
  'digest-unsupported': 'unsupported digest algorithm',
  'digest-length': 'digest has the wrong length for its algorithm',
  'digest-format': 'digest must be lower-case hexadecimal',
};

/**
 * Thrown by the parsers of references. Not an OciError, since most references come from configuration and Kubernetes.
 */
export class InvalidReference extends Error {
  readonly fault: ReferenceFault;

  constructor(text: string, fault: ReferenceFault) {
    super(`${FAULTS[fault]}: ${JSON.stringify(text.slice(0, 200))}`);
    this.name = 'InvalidReference';
    this.fault = fault;
  }
}

/**
 * Clients may limit a name to 255 characters (distribution-spec, "Pulling manifests"), and registries that store files
 * do.
 */
export const MAX_REPOSITORY_LENGTH = 255;
/** distribution-spec, "Pulling manifests": a tag is at most 128 characters. */
export const MAX_TAG_LENGTH = 128;
/** Several times the longest host (253), port, name, tag and digest; no valid reference comes near. */
export const MAX_REFERENCE_LENGTH = 4096;

/** The name of Docker Hub in a normalized reference, whichever host serves it. */
export const DOCKER_HUB = 'docker.io';
/** The tag if neither tag nor digest is given. */
export const DEFAULT_TAG = 'latest';

const LEGACY_DOCKER_HUB = 'index.docker.io';
const OFFICIAL_PREFIX = 'library/';

const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*';
const PATH = `${COMPONENT}(?:/${COMPONENT})*`;
const LABEL = '[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*';
const HOST = `(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])`;
const DOMAIN = `${HOST}(?::[0-9]+)?`;
const TAG = `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,${MAX_TAG_LENGTH - 1}}`;
const DIGEST = '[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,}';

const REFERENCE = new RegExp(`^(?:(${DOMAIN})/)?(${PATH})(?::(${TAG}))?(?:@(${DIGEST}))?$`);
const REPOSITORY_ONLY = new RegExp(`^${PATH}$`);
const TAG_ONLY = new RegExp(`^${TAG}$`);
const IMAGE_ID = /^[a-f0-9]{64}$/;

/** Numbers of hex digits by algorithm, for the three of go-digest. */
const DIGEST_HEX_LENGTH: ReadonlyMap<string, number> = new Map([
  ['sha256', 64],
  ['sha384', 96],
  ['sha512', 128],
]);

/** Whether `text` is a repository name by the OCI rule, without a registry. */
export function isRepositoryName(text: string): boolean {
  return text.length <= MAX_REPOSITORY_LENGTH && REPOSITORY_ONLY.test(text);
}

/** Whether `text` is a tag by the OCI rule. */
export function isTag(text: string): boolean {
  return TAG_ONLY.test(text);
}

/** `text` as a tag; throws TAG_INVALID. */
export function parseTag(text: string): string {
  if (!isTag(text)) {
    throw new OciError('TAG_INVALID', { detail: { tag: text.slice(0, MAX_TAG_LENGTH) } });
  }
  return text;
}

/**
 * The tags under which cosign stores signature, attestations and SBOM of `digest` in a registry without referrers API.
 * Nothing refers to them: clients construct the names.
 */
export function signatureTags(digest: string): readonly string[] {
  return ['sig', 'att', 'sbom'].map(kind => `${digest.replace(':', '-')}.${kind}`);
}

/** Parses without any defaults: `nginx` has no registry, and `a/b` has the registry `a`. Throws InvalidReference. */
export function parseReference(text: string): Reference {
  if (text === '') throw new InvalidReference(text, 'empty');
  if (text.length > MAX_REFERENCE_LENGTH) throw new InvalidReference(text, 'too-long');
  const match = REFERENCE.exec(text);
  if (match === null) {
    throw new InvalidReference(text, REFERENCE.test(text.toLowerCase()) ? 'uppercase' : 'format');
  }
  const [, registry = '', repository = '', tag, digest] = match;
  if (repository.length > MAX_REPOSITORY_LENGTH) throw new InvalidReference(text, 'too-long');
  const fault = digest === undefined ? undefined : digestFault(digest);
  if (fault !== undefined) throw new InvalidReference(text, fault);
  return reference(registry, repository, tag, digest);
}

/**
 * Parses like `docker pull` and Kubernetes: short names belong to Docker Hub, and its single-component names to
 * `library/`. Adds no tag. Throws InvalidReference.
 */
export function parseNormalizedReference(text: string): Reference {
  if (IMAGE_ID.test(text)) throw new InvalidReference(text, 'identifier-as-name');
  const [domain, remainder] = splitDomain(text);
  const beforeColon = remainder.split(':', 1)[0] ?? '';
  if (beforeColon.toLowerCase() !== beforeColon) throw new InvalidReference(text, 'uppercase');
  return parseReference(`${domain}/${remainder}`);
}

/**
 * The reference that containerd's CRI pulls: normalized, without the tag if there is a digest, with `latest` if there
 * is neither.
 */
export function parseDockerReference(text: string): Reference {
  const { registry, repository, tag, digest } = parseNormalizedReference(text);
  return digest === undefined
    ? reference(registry, repository, tag ?? DEFAULT_TAG)
    : reference(registry, repository, undefined, digest);
}

/** Normalized, except that a bare digest or image ID remains just that digest. */
export function parseAnyReference(text: string): Reference {
  if (IMAGE_ID.test(text)) return reference('', '', undefined, `sha256:${text}`);
  if (digestFault(text) === undefined) return reference('', '', undefined, text);
  return parseNormalizedReference(text);
}

/**
 * The reference that the kubelet reads from a pod's `image`: normalized, with `latest` if there is neither tag nor
 * digest.
 */
export function parseImageName(text: string): Reference {
  const parsed = parseNormalizedReference(text);
  return parsed.tag === undefined && parsed.digest === undefined ? { ...parsed, tag: DEFAULT_TAG } : parsed;
}

/** The canonical text: `docker.io/library/nginx:1.27@sha256:…`, or only the digest if there is no name. */
export function referenceText({ registry, repository, tag, digest }: Reference): string {
  if (repository === '') return digest ?? '';
  const name = registry === '' ? repository : `${registry}/${repository}`;
  return name + (tag === undefined ? '' : `:${tag}`) + (digest === undefined ? '' : `@${digest}`);
}

/** The name without tag and digest, as in keyrings and pull records: `docker.io/library/nginx`. */
export function referenceName({ registry, repository }: Reference): string {
  return referenceText({ registry, repository });
}

/** The short form that Docker displays, without the defaults for Docker Hub. */
export function familiarText(full: Reference): string {
  if (full.registry !== DOCKER_HUB) return referenceText(full);
  const components = full.repository.split('/');
  const official = components.length === 2 && full.repository.startsWith(OFFICIAL_PREFIX);
  const repository = official ? full.repository.slice(OFFICIAL_PREFIX.length) : full.repository;
  return referenceText({ ...full, registry: '', repository });
}

/** The domain that `text` means, and the rest with Docker Hub's `library/` added if needed. */
function splitDomain(text: string): [domain: string, remainder: string] {
  const slash = text.indexOf('/');
  if (slash === -1) return [DOCKER_HUB, OFFICIAL_PREFIX + text];
  const first = text.slice(0, slash);
  const rest = text.slice(slash + 1);
  const isDomain = first === 'localhost' || /[.:]/.test(first) || first.toLowerCase() !== first;
  if (!isDomain) return [DOCKER_HUB, text];
  if (first !== DOCKER_HUB && first !== LEGACY_DOCKER_HUB) return [first, rest];
  return [DOCKER_HUB, rest.includes('/') ? rest : OFFICIAL_PREFIX + rest];
}

/** go-digest's checks, in its order. */
function digestFault(digest: string): ReferenceFault | undefined {
  const colon = digest.indexOf(':');
  if (colon <= 0) return 'digest-format';
  const hexLength = DIGEST_HEX_LENGTH.get(digest.slice(0, colon));
  if (hexLength === undefined) return 'digest-unsupported';
  const hex = digest.slice(colon + 1);
  if (hex.length !== hexLength) return 'digest-length';
  return /^[0-9a-f]+$/.test(hex) ? undefined : 'digest-format';
}

function reference(registry: string, repository: string, tag?: string, digest?: string): Reference {
  return {
    registry,
    repository,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}
