import type { Config } from '../config/config.ts';

/** The addresses of a running server, as `startServer` returns them. */
export interface Addresses {
  /** `127.0.0.1:5000`, with the upstream that the port belongs to, if any. */
  readonly addresses: readonly { readonly address: string; readonly upstream?: string | undefined }[];
  readonly opsAddress: string | undefined;
}

/** The text for a person who starts the server: what is served where, how to use it, and what is open to everybody. */
export function bannerText(config: Config, { addresses, opsAddress }: Addresses, version: string): string {
  const names = [...config.upstreams.keys()];
  const rows = [
    ...addresses.map(
      ({ address, upstream }) => [`${schemeOf(config)}://${address}`, servedThere(config, upstream)] as const,
    ),
    ...(opsAddress === undefined ? [] : [[`http://${opsAddress}`, '/livez, /readyz, /metrics'] as const]),
    ['storage', config.storage.path] as const,
  ];
  const width = Math.max(...rows.map(([place]) => place.length));
  const shared = addresses.find(({ upstream }) => upstream === undefined)?.address;
  return [
    `Entrepot ${version}`,
    '',
    ...rows.map(([place, what]) => `  ${place.padEnd(width)}  ${what}`),
    '',
    ...(shared === undefined ? [] : usage(schemeOf(config), shared, names)),
    ...warnings(config),
    '',
  ].join('\n');
}

function servedThere(config: Config, upstream: string | undefined): string {
  if (upstream !== undefined) {
    return `${upstream} only, for Docker's registry-mirrors`;
  }
  const prefixes = config.hosted.prefixes.map(prefix => `${prefix}/…`);
  const hosted = prefixes.length === 0 ? '' : `; hosts ${prefixes.join(', ')}`;
  const byDefault =
    config.defaultUpstream === undefined ? '' : `; names without a registry: ${config.defaultUpstream}`;
  return `mirrors ${[...config.upstreams.keys()].join(', ')}${hosted}${byDefault}`;
}

/** The scheme of every port in `server.listen`. */
function schemeOf({ server }: Config): 'http' | 'https' {
  return server.tls === undefined ? 'http' : 'https';
}

function usage(scheme: 'http' | 'https', address: string, upstreams: readonly string[]): string[] {
  const local = address.replace(/^(?:0\.0\.0\.0|\[::\]):/, '127.0.0.1:');
  const remote = address.replace(/^(?:0\.0\.0\.0|\[::\]):/, 'THIS-MACHINE:');
  const example = upstreams.includes('docker.io') ? 'docker.io/library/nginx' : `${upstreams[0]}/…`;
  return [
    `  Try it:           skopeo inspect ${scheme === 'http' ? '--tls-verify=false ' : ''}docker://${local}/${example}`,
    `  Point a node at:  entrepot hosts containerd|crio|docker|k3s --server ${scheme}://${remote}`,
    '',
  ];
}

/** Warnings if nothing new is fetched, or if strangers get more than public content. */
function warnings(config: Config): string[] {
  const open = [...config.upstreams.values()].flatMap(({ name, openToAll, repositories }) =>
    openToAll
      ? [name]
      : repositories.filter(rule => rule.openToAll === true).map(({ match }) => `${name}/${match}`),
  );
  const { anonymous, prefixes } = config.hosted;
  return [
    ...(config.offline ? ['  Offline: no upstream is contacted; only stored content is found.'] : []),
    ...(open.length === 0
      ? []
      : [
          `  Open to all: anonymous clients may read whatever Entrepot's credentials can read of ${open.join(', ')}.`,
        ]),
    ...(anonymous === 'none' || prefixes.length === 0
      ? []
      : [`  Hosted repositories: everybody may ${anonymous === 'push' ? 'pull and push' : 'pull'}.`]),
  ];
}
