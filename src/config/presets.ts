/**
 * The registries that are mirrored without a word of configuration, as they would be written in the file. What a file
 * says of one is merged over it key by key, and `ghcr.io: false` switches it off.
 *
 * `realms` is needed only where a registry's token service has another host than the registry: Docker Hub alone.
 * ghcr.io/token, quay.io/v2/auth, gcr.io/v2/token and public.ecr.aws/token are on the registry's own host, and
 * mcr.microsoft.com asks for no token. All but Hub's manifests redirect somewhere: blobs go to a CDN (Hub:
 * *.docker.com and *.r2.cloudflarestorage.com, ghcr.io: pkg-containers.githubusercontent.com, quay.io: cdn*.quay.io,
 * mcr.microsoft.com: *.data.mcr.microsoft.com, public.ecr.aws: *.cloudfront.net), and registry.k8s.io redirects
 * manifests as well (*-docker.pkg.dev). Credentials and tokens stay behind at a redirect, so no CDN is listed.
 */
export const PRESETS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'docker.io': {
    url: 'https://registry-1.docker.io',
    aliases: ['index.docker.io', 'registry-1.docker.io'],
    realms: ['auth.docker.io'],
  },
  // Its images have had an index for years, and old manifests still name them by architecture.
  'registry.k8s.io': { url: 'https://registry.k8s.io', archInName: true },
  'ghcr.io': { url: 'https://ghcr.io' },
  'quay.io': { url: 'https://quay.io' },
  'gcr.io': { url: 'https://gcr.io' },
  'mcr.microsoft.com': { url: 'https://mcr.microsoft.com' },
  'public.ecr.aws': { url: 'https://public.ecr.aws' },
};
