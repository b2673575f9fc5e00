/**
 * The registries that are mirrored without any configuration, in the form of the file. What a file says about one of
 * them is merged over it key by key, and `ghcr.io: false` disables it.
 *
 * `realms` is needed only if a registry's token service has another host, as for Docker Hub: ghcr.io/token,
 * quay.io/v2/auth, gcr.io/v2/token and public.ecr.aws/token are on the registry's own host, and mcr.microsoft.com
 * requires no token. Blobs are redirected to CDNs (Hub: *.docker.com and *.r2.cloudflarestorage.com, ghcr.io:
 * pkg-containers.githubusercontent.com, quay.io: cdn*.quay.io, mcr.microsoft.com: *.data.mcr.microsoft.com,
 * public.ecr.aws: *.cloudfront.net), and registry.k8s.io redirects manifests as well (*-docker.pkg.dev). No CDN is
 * listed, since credentials and tokens are not sent to the target of a redirect.
 */
export const PRESETS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'docker.io': {
    url: 'https://registry-1.docker.io',
    aliases: ['index.docker.io', 'registry-1.docker.io'],
    realms: ['auth.docker.io'],
  },
  // Its images have been multi-platform for years, but old manifests still name them by architecture.
  'registry.k8s.io': { url: 'https://registry.k8s.io', archInName: true },
  'ghcr.io': { url: 'https://ghcr.io' },
  'quay.io': { url: 'https://quay.io' },
  'gcr.io': { url: 'https://gcr.io' },
  'mcr.microsoft.com': { url: 'https://mcr.microsoft.com' },
  'public.ecr.aws': { url: 'https://public.ecr.aws' },
};
