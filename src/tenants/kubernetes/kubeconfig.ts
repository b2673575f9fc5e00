import { dirname, resolve } from 'node:path';
import { isJsonObject, type JsonObject } from '../../lib/json.ts';
import { parseYaml, YamlError } from '../../lib/yaml.ts';
import { type ClusterAccess, InvalidClusterAccess, readAccessFile, tokenIn } from './cluster-access.ts';

/** Ways to log in that are not supported: they are reported, never ignored. */
const UNSUPPORTED: ReadonlyMap<string, string> = new Map([
  ['exec', 'runs a program'],
  ['auth-provider', 'was removed from Kubernetes'],
  ['username', 'was removed from Kubernetes'],
  ['as', 'impersonates another user'],
]);

/**
 * The access in a kubeconfig's current context. The file, and those that it names, are read again for each request, so
 * that renewed credentials are used; the server stays the same. Throws InvalidClusterAccess, as do the functions of the
 * result if the files are no longer valid.
 */
export async function readKubeconfig(path: string): Promise<ClusterAccess> {
  let last: { readonly text: string; readonly context: CurrentContext } | undefined;
  const read = async () => {
    const text = await readAccessFile(path);
    if (last?.text !== text) last = { text, context: currentContext(new Kubeconfig(path, text)) };
    return last.context;
  };
  const { server, trust } = await read();
  await trust();
  return {
    server,
    trust: async () => (await read()).trust(),
    token: async () => (await read()).token(),
  };
}

type CurrentContext = Required<ClusterAccess>;

function currentContext(config: Kubeconfig): CurrentContext {
  const context = config.named('contexts', 'context', config.text(config.root, 'current-context'));
  const cluster = config.named('clusters', 'cluster', config.text(context, 'cluster'));
  const user = config.named('users', 'user', config.text(context, 'user'));
  for (const [key, why] of UNSUPPORTED) {
    if (user[key] !== undefined) {
      config.fail(`${key}, which ${why}, is not supported: use a token, a tokenFile or a client certificate`);
    }
  }
  for (const key of ['proxy-url', 'tls-server-name']) {
    if (cluster[key] !== undefined) config.fail(`${key} is not supported`);
  }
  const trust = async () => {
    const [ca, cert, key] = await Promise.all([
      config.pem(cluster, 'certificate-authority'),
      config.pem(user, 'client-certificate'),
      config.pem(user, 'client-key'),
    ]);
    return {
      ca,
      insecure: cluster['insecure-skip-tls-verify'] === true,
      clientCertificate: cert === undefined || key === undefined ? undefined : { cert, key },
    };
  };
  return { server: config.server(cluster), trust, token: config.token(user) };
}

/** A kubeconfig file that was read. */
class Kubeconfig {
  readonly root: JsonObject;
  readonly #path: string;

  constructor(path: string, text: string) {
    this.#path = path;
    try {
      const { value } = parseYaml(text);
      this.root = isJsonObject(value) ? value : this.fail('it is not a map');
    } catch (cause) {
      if (!(cause instanceof YamlError)) throw cause;
      // The parser's message may quote the text, which may contain a token.
      const place = cause.line === undefined ? '' : ` in line ${cause.line}`;
      throw new InvalidClusterAccess(`${path} is not YAML${place}`, { cause });
    }
  }

  fail(why: string): never {
    throw new InvalidClusterAccess(`${this.#path}: ${why}`);
  }

  text(object: JsonObject, key: string): string {
    const value = object[key];
    return typeof value === 'string' && value !== '' ? value : this.fail(`${key} is missing`);
  }

  /** The entry with this name in one of the file's lists. */
  named(list: string, kind: string, name: string): JsonObject {
    const entries = this.root[list];
    const found: unknown = Array.isArray(entries)
      ? entries.find(entry => isJsonObject(entry) && entry['name'] === name)
      : undefined;
    const value = isJsonObject(found) ? found[kind] : undefined;
    return isJsonObject(value) ? value : this.fail(`there is no ${kind} ${name}`);
  }

  server(cluster: JsonObject): URL {
    const text = this.text(cluster, 'server');
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (url === undefined || !/^https?:$/.test(url.protocol)) return this.fail('server is not a URL');
    return url;
  }

  /** PEM text, given in the file as base64 or as the path of another file, relative to this one. */
  async pem(object: JsonObject, key: string): Promise<string | undefined> {
    const data = object[`${key}-data`];
    if (typeof data === 'string' && data !== '') return Buffer.from(data, 'base64').toString();
    const file = object[key];
    return typeof file === 'string' && file !== '' ? readAccessFile(this.#beside(file)) : undefined;
  }

  /** As in kubectl, the file takes precedence over the token. */
  token(user: JsonObject): ClusterAccess['token'] {
    const { token, tokenFile } = user;
    if (typeof tokenFile === 'string' && tokenFile !== '') return tokenIn(this.#beside(tokenFile));
    return () => Promise.resolve(typeof token === 'string' && token !== '' ? token : undefined);
  }

  #beside(file: string): string {
    return resolve(dirname(this.#path), file);
  }
}
