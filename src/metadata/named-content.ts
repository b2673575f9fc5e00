import type { Descriptor } from '../oci/descriptor.ts';
import type { ManifestView } from '../oci/manifest.ts';

/** The only kind of manifest that has blobs but no config. */
const ARTIFACT_MANIFEST = 'application/vnd.oci.artifact.manifest.v1+json';

/** What a manifest names, in its order. */
export interface NamedDescriptor {
  readonly kind: 'manifest' | 'config' | 'blob';
  readonly descriptor: Descriptor;
}

export function namedIn(view: ManifestView): readonly NamedDescriptor[] {
  const hasConfig = view.kind === 'manifest' && view.mediaType !== ARTIFACT_MANIFEST;
  return [
    ...view.manifests.map(descriptor => ({ kind: 'manifest' as const, descriptor })),
    ...view.blobs.map((descriptor, index) => ({
      kind: hasConfig && index === 0 ? ('config' as const) : ('blob' as const),
      descriptor,
    })),
  ];
}
