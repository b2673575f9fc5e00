// The few things of which a model test makes its histories: so few that steps meet.
import { digestOf } from '../../oci/digest.ts';
import type { Manifest, ManifestView } from '../../oci/manifest.ts';
import { OCI_ARTIFACT_MANIFEST, OCI_INDEX, OCI_MANIFEST } from '../../oci/media-types.ts';
import type { Repository } from '../../oci/repository.ts';

export const REPOSITORIES: readonly Repository[] = [
  { upstream: '', name: 'team/app' },
  { upstream: '', name: 'team/other' },
  { upstream: 'docker.io', name: 'library/nginx' },
];
export const OWNERS = ['team', 'library'];
export const TAGS = ['v1', 'v2'];
export const GRANTEES = ['', 'tenant:a'];
export const CREDENTIALS = ['', 'c', 'd'];

/** Of a blob, but where somebody was wrong. */
export const SIZE = 5000;
export const WRONG_SIZE = 3;

/** Long ago: SQLite compares the beginning of an import with a clock of its own, which must be later. */
const START_MS = Date.now() - 30 * 86_400_000;
/** Longer than the time within which a use may not be recorded. */
const TICK_MS = 600_000;

export function timeOf(ticks: number): number {
  return START_MS + ticks * TICK_MS;
}

/** Between what happened at this time and at the next. */
export function timeAfter(ticks: number): number {
  return timeOf(ticks) + TICK_MS / 2;
}

export const BLOBS = ['a', 'b', 'c'].map(text => digestOf(Buffer.from(text)));
const [A, B, C] = BLOBS.map(digest => ({ mediaType: 'a/layer', digest, size: SIZE }));

/** A manifest, and what it names. */
export interface StoredManifest {
  readonly manifest: Manifest;
  readonly view: ManifestView;
}

function made(name: string, parts: Partial<ManifestView>): StoredManifest {
  const { mediaType = OCI_MANIFEST, manifests = [] } = parts;
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, name, manifests }));
  const view: ManifestView = {
    kind: mediaType === OCI_INDEX ? 'index' : 'manifest',
    mediaType,
    manifests,
    blobs: [],
    subject: undefined,
    artifactType: undefined,
    annotations: {},
    ...parts,
  };
  return { manifest: { digest: digestOf(bytes), mediaType, bytes }, view };
}

function descriptorOf({ manifest: { mediaType, digest, bytes } }: StoredManifest) {
  return { mediaType, digest, size: bytes.byteLength };
}

const IMAGE = made('image', { blobs: [A!, B!] });
const ATTACHED = made('attached', { blobs: [C!], subject: descriptorOf(IMAGE), artifactType: 'sig' });
const SAME_AS_ARTIFACT = made('image', {
  mediaType: OCI_ARTIFACT_MANIFEST,
  blobs: [C!],
  subject: descriptorOf(ATTACHED),
  artifactType: 'sbom',
  annotations: { made: 'here' },
});
const BOTH = made('both', {
  mediaType: OCI_INDEX,
  manifests: [descriptorOf(IMAGE), descriptorOf(ATTACHED)],
});
const NESTED = made('nested', { mediaType: OCI_INDEX, manifests: [descriptorOf(BOTH)] });
const DAMAGED: StoredManifest = {
  manifest: { ...IMAGE.manifest, digest: digestOf(Buffer.from('other bytes')) },
  view: { ...IMAGE.view, blobs: [B!] },
};

export const MANIFESTS: readonly StoredManifest[] = [
  IMAGE,
  ATTACHED,
  SAME_AS_ARTIFACT,
  BOTH,
  NESTED,
  DAMAGED,
];
export const MANIFEST_DIGESTS = [...new Set(MANIFESTS.map(({ manifest }) => manifest.digest))];
export const DIGESTS = [...BLOBS, ...MANIFEST_DIGESTS];
export const CONTENTS = [
  ...BLOBS.map(digest => ({ kind: 'blob' as const, digest })),
  ...MANIFEST_DIGESTS.map(digest => ({ kind: 'manifest' as const, digest })),
];

const keyOf = (prefix: string, { digest }: { readonly digest: string }) =>
  `${prefix}-${digest.replace(':', '-')}`;

/** Of Leases that keep content. */
export const KEYS = [keyOf('fill-0123', A!), keyOf('import', B!), 'importing-1', 'importing-2'];
