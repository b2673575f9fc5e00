// Entrepot as the registry that clients push to.
import { createHash } from 'node:crypto';
import { get } from './client.ts';
import { Entrepot } from './entrepot.ts';

/** An Entrepot where anybody may push below `team/`. */
export async function startHosting(): Promise<Entrepot> {
  return Entrepot.start({ hosted: { prefixes: ['team'], anonymous: 'push' } });
}

/** The digest of the manifest that a registry serves, made from its bytes; undefined where it has none. */
export async function servedDigest(
  registry: { readonly url: string },
  repository: string,
  reference: string,
): Promise<string | undefined> {
  const { status, text } = await get(`${registry.url}/v2/${repository}/manifests/${reference}`, {
    headers: { accept: MANIFEST_TYPES.join(', ') },
  });
  if (status === 404) return undefined;
  if (status !== 200) throw new Error(`${repository} ${reference}: ${status} ${text}`);
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

/** docker-registry has nothing for who does not name them. */
const MANIFEST_TYPES: readonly string[] = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];
