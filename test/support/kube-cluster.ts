// A real Kubernetes API server on a real etcd, on loopback: see the README of the folder that its run.sh lies in.
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { text as readText } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { Daemon, freePorts, hasPrograms, run, type RunResult, tryRun, until } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';
import type { Login } from './tenants.ts';

const RUN = fileURLToPath(new URL('../../../shared/kube-apiserver/run.sh', import.meta.url));
const BINARY = process.env['KUBE_APISERVER'] ?? '';

/** Whether there is all that a cluster needs: kubectl, etcd, and KUBE_APISERVER, which names the server's program. */
export const HAS_CLUSTER =
  hasPrograms('kubectl', 'etcd', 'etcdctl', 'setpriv') && existsSync(BINARY) && existsSync(RUN);

/** The kustomization that people apply. */
export const MANIFESTS = fileURLToPath(new URL('../../config/kubernetes/base', import.meta.url));

/** For the controllers, on a busy machine. */
const CONTROLLED_MS = 60_000;

export class KubeCluster {
  readonly folder: string;
  readonly port: number;
  #daemon: Daemon | undefined;
  #agent: Agent | undefined;

  readonly #niceness: number;

  private constructor(folder: string, port: number, niceness: number) {
    this.folder = folder;
    this.port = port;
    this.#niceness = niceness;
  }

  /** `niceness`: how far it gives way to what is tested, as a cluster on other machines does. */
  static async start({ niceness = 0 } = {}): Promise<KubeCluster> {
    const cluster = new KubeCluster(await makeTempFolder('kube'), await freePorts(PORTS), niceness);
    await cluster.start();
    return cluster;
  }

  /** Starts it, or starts it again on what it held, with more flags for the API server. */
  async start(...flags: readonly string[]): Promise<void> {
    const sinceMs = Date.now();
    this.#daemon = await Daemon.start({
      program: 'nice',
      args: ['-n', String(this.#niceness), RUN, this.folder, String(this.port), ...flags],
      env: { KUBE_APISERVER: BINARY },
      isReady: async () => (await this.#answers()) && (await this.#hasWrittenSince(sinceMs)),
      // No criterion, only an end for what hangs, as for each test.
      readyTimeoutMs: 600_000,
      deathSignal: 'TERM',
    });
  }

  /** Graceful; what it holds stays. */
  async stop(): Promise<void> {
    this.#disconnect();
    await this.#daemon?.stop();
  }

  /** Stops it and removes its folder. */
  async remove(): Promise<void> {
    await this.stop();
    await removeFolder(this.folder);
  }

  get url(): string {
    return `https://127.0.0.1:${this.port}`;
  }

  /** The certificate to trust, in PEM. */
  async certificate(): Promise<string> {
    return readFile(join(this.folder, 'apiserver.crt'), 'utf8');
  }

  /** As its administrator, who may do everything. */
  async kubectl(...args: string[]): Promise<string> {
    return run('kubectl', [...this.#flags(), ...args]);
  }

  async tryKubectl(...args: string[]): Promise<RunResult> {
    return tryRun('kubectl', [...this.#flags(), ...args]);
  }

  /** A token of a ServiceAccount, as `kubectl create token` makes it; for the API server itself when no audience is named. */
  async tokenOf(namespace: string, account: string, audience?: string): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
    const kind = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest' };
    const spec = audience === undefined ? {} : { audiences: [audience] };
    const { status } = await this.post(path, { ...kind, spec });
    return (status as { readonly token: string }).token;
  }

  /** Whether the API server still knows whose token this is. */
  async knows(token: string): Promise<boolean> {
    const noConfig = join(this.folder, 'none.kubeconfig');
    await writeFile(noConfig, '');
    const access = ['--server', this.url, '--certificate-authority', join(this.folder, 'apiserver.crt')];
    const asked = ['auth', 'can-i', '--list', '--kubeconfig', noConfig, '--token', token, ...access];
    const { code, stderr } = await tryRun('kubectl', asked);
    if (code === 0) return true;
    if (stderr.includes('Unauthorized')) return false;
    throw new Error(`whose token it is, cannot be asked: ${stderr}`);
  }

  /** Creates an object; what the server made of it. */
  async post(path: string, object: object): Promise<Readonly<Record<string, unknown>>> {
    const { status, text } = await this.#ask('POST', path, object);
    if (status !== 201) throw new Error(`POST ${path}: ${status} ${text}`);
    return JSON.parse(text);
  }

  /** `kubectl apply` of objects. */
  async apply(...objects: readonly object[]): Promise<void> {
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    await run('kubectl', [...this.#flags(), 'apply', '--filename', '-'], { input });
  }

  /**
   * Makes an object of the core API, or puts it in place of the one that is there, byte for byte as it is written:
   * kubectl itself would escape it to more than the API server takes. What the server refuses is passed over.
   */
  async replace(
    collection: 'secrets' | 'serviceaccounts',
    namespace: string,
    object: ApiObject,
  ): Promise<void> {
    const path = `/api/v1/namespaces/${namespace}/${collection}`;
    const input = JSON.stringify({ apiVersion: 'v1', ...object });
    const ask = async (verb: string, where: string) =>
      tryRun('nice', ['-n', '19', 'kubectl', ...this.#flags(), verb, '--raw', where, '--filename', '-'], {
        input,
      });
    const { code } = await ask('create', path);
    if (code !== 0) await ask('replace', `${path}/${object.metadata.name}`);
  }

  /** A namespace that is a tenant, with the account that every namespace has. */
  async makeTenant(name: string): Promise<void> {
    await this.post('/api/v1/namespaces', { metadata: { name } });
    await this.#require('PATCH', `/api/v1/namespaces/${name}`, {
      metadata: { labels: { entrepot: 'tenant' } },
    });
    const account = `/api/v1/namespaces/${name}/serviceaccounts/default`;
    await until(
      `the account of ${name}`,
      CONTROLLED_MS,
      async () => (await this.#ask('GET', account)).status === 200,
    );
  }

  /** As `kubectl create secret docker-registry`, in place of one that may be there. */
  async putPullSecret(namespace: string, name: string, server: string, login: Login): Promise<void> {
    const secrets = `/api/v1/namespaces/${namespace}/secrets`;
    const { status, text } = await this.#ask('DELETE', `${secrets}/${name}`);
    if (status !== 200 && status !== 404) throw new Error(`DELETE ${secrets}/${name}: ${status} ${text}`);
    const [username, password] = login;
    const auth = Buffer.from(login.join(':')).toString('base64');
    const config = JSON.stringify({ auths: { [server]: { username, password, auth } } });
    await this.post(secrets, {
      metadata: { name },
      type: 'kubernetes.io/dockerconfigjson',
      data: { '.dockerconfigjson': Buffer.from(config).toString('base64') },
    });
  }

  /** Makes etcd forget all versions but the present one: what has to be watched from before it, is Gone. */
  async compact(): Promise<void> {
    const etcdctl = async (...args: string[]) =>
      run('etcdctl', ['--endpoints', `http://127.0.0.1:${this.port + 1}`, ...args], {
        env: { ETCDCTL_API: '3' },
      });
    const [endpoint]: [EtcdEndpoint] = JSON.parse(await etcdctl('endpoint', 'status', '--write-out', 'json'));
    await etcdctl('compact', String(endpoint.Status.header.revision));
  }

  /**
   * A kubeconfig with which a program is this ServiceAccount, by a token file beside it; its path. `server`: where it
   * asks instead of the API server itself.
   */
  async kubeconfigOf(namespace: string, account: string, server?: string): Promise<string> {
    const token = await this.tokenOf(namespace, account);
    const name = `${namespace}-${account}`;
    await writeFile(join(this.folder, `${name}.token`), token);
    const path = join(this.folder, `${name}.kubeconfig`);
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'test',
          cluster: { server: server ?? this.url, 'certificate-authority': 'apiserver.crt' },
        },
      ],
      users: [{ name, user: { tokenFile: `${name}.token` } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: name } }],
      'current-context': 'test',
    };
    await writeFile(path, JSON.stringify(config));
    return path;
  }

  /** The key that signs its ServiceAccounts' tokens. */
  async signingKey(): Promise<string> {
    return readFile(join(this.folder, 'sa.key'), 'utf8');
  }

  #flags(): readonly string[] {
    return ['--kubeconfig', join(this.folder, 'kubeconfig')];
  }

  /** It writes the kubeconfigs each time, after it has begun to answer. */
  async #hasWrittenSince(sinceMs: number): Promise<boolean> {
    const { size, mtimeMs } = await stat(join(this.folder, 'kubeconfig'));
    return size > 0 && mtimeMs >= sinceMs;
  }

  async #answers(): Promise<boolean> {
    if (!existsSync(join(this.folder, 'kubeconfig'))) return false;
    try {
      return (await this.#ask('GET', '/readyz')).status === 200;
    } catch {
      // Nobody listens; or its certificate is a new one.
      this.#disconnect();
      return false;
    }
  }

  async #require(method: string, path: string, object: object): Promise<void> {
    const { status, text } = await this.#ask(method, path, object);
    if (status !== 200) throw new Error(`${method} ${path}: ${status} ${text}`);
  }

  /** As its administrator, in a tenth of the time that kubectl takes. */
  async #ask(method: string, path: string, object?: object): Promise<ApiAnswer> {
    this.#agent ??= new Agent({ ca: await this.certificate(), keepAlive: true });
    const [token] = (await readFile(join(this.folder, 'tokens.csv'), 'utf8')).split(',');
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const headers = { authorization: `Bearer ${token}`, 'content-type': type };
    const sent = request(`${this.url}${path}`, { method, agent: this.#agent, headers });
    sent.end(object && JSON.stringify(object));
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    return { status: response.statusCode ?? 0, text: await readText(response) };
  }

  #disconnect(): void {
    this.#agent?.destroy();
    this.#agent = undefined;
  }
}

/** What an object of the API has whatever its kind. */
export interface ApiObject extends Readonly<Record<string, unknown>> {
  readonly metadata: { readonly name: string };
}

interface ApiAnswer {
  readonly status: number;
  readonly text: string;
}

interface EtcdEndpoint {
  readonly Status: { readonly header: { readonly revision: number } };
}

/** The API server and etcd listen on three ports in a row. */
const PORTS = 3;
