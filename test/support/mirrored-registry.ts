// A real registry with Entrepot in front of it: what every test of a pulling client starts with.
import { DockerRegistry, REGISTRY_USER, type RegistryMode, type RegistryRequest } from './docker-registry.ts';
import { Entrepot, type EntrepotConfig } from './entrepot.ts';
import { pushImage } from './images.ts';

/** The name that the registry has in the configuration and in image references: no such host exists. */
export const UPSTREAM = 'registry.test';

/** Pushed to every upstream: the index of busybox, under a tag that keeps and one that is asked anew. */
export const FIXED = 'public/busybox:1';
export const LATEST = 'public/busybox:latest';

/** Only somebody with the registry's credential gets it, where there is one. */
export const PRIVATE = 'team/busybox:1';

/** The variants of an upstream that Entrepot has to cope with. */
export const UPSTREAM_MODES = ['open', 'htpasswd', 'token'] as const;

export class MirroredRegistry {
  readonly upstream: DockerRegistry;
  readonly entrepot: Entrepot;

  private constructor(upstream: DockerRegistry, entrepot: Entrepot) {
    this.upstream = upstream;
    this.entrepot = entrepot;
  }

  /** `name` is what the upstream is called in the configuration, where `config` may say more. */
  static async start(
    kind: (typeof UPSTREAM_MODES)[number],
    name: string = UPSTREAM,
    config: EntrepotConfig = {},
  ): Promise<MirroredRegistry> {
    const mode: RegistryMode = { kind };
    const upstream = await DockerRegistry.start(mode);
    try {
      for (const image of [FIXED, LATEST, PRIVATE]) await pushImage('busybox', upstream, image);
      const upstreams = { [name]: upstreamConfig(upstream) };
      const env = { [PASSWORD_VARIABLE]: REGISTRY_USER.password };
      const entrepot = await Entrepot.start({ upstreams, ...config }, { env });
      await upstream.forgetRequests();
      return new MirroredRegistry(upstream, entrepot);
    } catch (error) {
      await upstream.remove();
      throw error;
    }
  }

  /** What an image is called when a client asks Entrepot for it by path. */
  reference(image: string): string {
    return `${this.entrepot.host}/${UPSTREAM}/${image}`;
  }

  /** Takes the requests that reached the upstream since the last call. */
  async takeRequests(): Promise<readonly RegistryRequest[]> {
    const requests = await this.upstream.requests();
    await this.upstream.forgetRequests();
    return requests;
  }

  async remove(): Promise<void> {
    await this.entrepot.remove();
    await this.upstream.remove();
  }
}

/** The blobs that the upstream was asked to send, each as often as it was asked; the mirror promises: once. */
export function fetchedBlobs(requests: readonly RegistryRequest[]): readonly string[] {
  return requests
    .filter(({ method, status }) => method === 'GET' && status === 200)
    .map(({ path }) => /\/blobs\/(sha256:[0-9a-f]{64})/.exec(path)?.[1])
    .filter(digest => digest !== undefined);
}

/** The requests that are not the one question a mirror has to ask: what does this tag mean now? */
export function beyondTagChecks(requests: readonly RegistryRequest[]): readonly RegistryRequest[] {
  return requests.filter(({ method, path, status }) => {
    const isTagCheck = method === 'HEAD' && /\/manifests\/[^:/]+$/.test(path);
    return !isTagCheck && status !== 401;
  });
}

const PASSWORD_VARIABLE = 'UPSTREAM_PASSWORD';

function upstreamConfig(upstream: DockerRegistry): object {
  const { username } = REGISTRY_USER;
  const credentials = { username, passwordEnv: PASSWORD_VARIABLE };
  const realm = upstream.tokenServer === undefined ? [] : [new URL(upstream.tokenServer.realm).host];
  return {
    url: upstream.url,
    realms: realm,
    // A pull by a real client on a busy machine may take longer than the minute that a tag keeps by default.
    freshFor: '1h',
    ...(upstream.credential !== undefined && { credentials, openToAll: true }),
  };
}
