import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import { MAX_SETTING_FILE_BYTES } from '../config/secrets.ts';
import type { Log } from '../lib/log.ts';
import { requireTextFile, textFileTrouble } from '../lib/text-file.ts';
import { TlsFiles, type TlsPaths, UnusableTls } from '../ops/tls-files.ts';
import type { ClusterTls } from '../replicas/cluster-tls.ts';

/** How this replica and others know each other, by files that may be replaced. */
export interface OpenClusterTls {
  readonly tls: ClusterTls;
  /** Begins to follow the files. */
  follow(): void;
  /** Reads the files now. Never rejects: what cannot be used is logged, and what was used before stays. */
  look(): Promise<void>;
  close(): void;
}

type ClusterConfig = Pick<Config, 'cluster' | 'origin'>;

/** Throws ConfigError if the files of `cluster` cannot be used; `undefined` if there are no replicas. */
export async function openClusterTls(config: ClusterConfig, log: Log): Promise<OpenClusterTls | undefined> {
  const { keyFile, tls } = config.cluster ?? {};
  if (tls !== undefined) return openCertificates(config, tls, log);
  return keyFile === undefined ? undefined : openKeys(config, keyFile, log);
}

/** They are read again only by `look`: the operator decides which replica uses a new key first. */
async function openKeys(config: ClusterConfig, keyFile: string, log: Log): Promise<OpenClusterTls> {
  const { ClusterKeys, UnusableKeys } = await import('../replicas/cluster-keys.ts');
  const read = () => requireTextFile(keyFile, MAX_SETTING_FILE_BYTES);
  try {
    let text = await read();
    const tls = new ClusterKeys(text);
    const look = async () => {
      try {
        const next = await read();
        if (next === text) return;
        tls.renew(next);
        text = next;
        log.info({ keyFile }, 'the keys of the cluster were reloaded');
      } catch (error) {
        log.error(
          { err: error, keyFile },
          'the keys of the cluster cannot be reloaded: the last good ones stay in use',
        );
      }
    };
    return { tls, follow: () => {}, look, close: () => {} };
  } catch (error) {
    const message = error instanceof UnusableKeys ? `expected ${error.message}` : textFileTrouble(error);
    throw problemOf(config, { path: ['keyFile'], value: keyFile, message });
  }
}

async function openCertificates(
  config: ClusterConfig,
  paths: Required<TlsPaths>,
  log: Log,
): Promise<OpenClusterTls> {
  const { ClusterCertificates, NamelessCertificate } = await import('../replicas/cluster-certificates.ts');
  try {
    const files = await TlsFiles.open(paths, log);
    const tls = new ClusterCertificates(withCa(files.material));
    const renew = (material: TlsFiles['material']) => tls.renew(withCa(material));
    return {
      tls,
      follow: () => files.follow(renew),
      look: () => files.look(renew),
      close: () => files.close(),
    };
  } catch (error) {
    if (error instanceof NamelessCertificate) {
      const message = `expected ${error.message}`;
      throw problemOf(config, { path: ['tls', 'certFile'], value: paths.certFile, message });
    }
    if (!(error instanceof UnusableTls)) throw error;
    throw new ConfigError(tlsProblems(config, ['cluster', 'tls'], { paths, error }));
  }
}

function withCa({ cert, key, ca = '' }: TlsFiles['material']) {
  return { cert, key, ca };
}

/** What is wrong with certificates, at `path` in the configuration. */
export function tlsProblems(
  { origin }: Pick<Config, 'origin'>,
  path: readonly string[],
  { paths, error }: { readonly paths: TlsPaths; readonly error: UnusableTls },
) {
  return error.problems.map(({ key, what: message }) => {
    const at = key === undefined ? path : [...path, key];
    return { path: at, value: key && paths[key], message, source: origin.sourceOf(at) };
  });
}

function problemOf(
  { origin }: ClusterConfig,
  problem: { readonly path: readonly string[]; readonly value: string; readonly message: string },
): ConfigError {
  const path = ['cluster', ...problem.path];
  return new ConfigError([{ ...problem, path, source: origin.sourceOf(path) }]);
}
