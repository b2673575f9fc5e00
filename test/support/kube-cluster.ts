// A real Kubernetes API server on a real etcd, on loopback: see the README of the folder that its run.sh lies in.
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Daemon, freePort, hasPrograms, run, type RunResult, tryRun } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

const RUN = fileURLToPath(new URL('../../../shared/kube-apiserver/run.sh', import.meta.url));
const BINARY = process.env['KUBE_APISERVER'] ?? '';

/** Whether there is all that a cluster needs: kubectl, etcd, and KUBE_APISERVER, which names the server's program. */
export const HAS_CLUSTER = hasPrograms('kubectl', 'etcd', 'setpriv') && existsSync(BINARY) && existsSync(RUN);

export class KubeCluster {
  readonly folder: string;
  readonly port: number;
  #daemon: Daemon | undefined;

  private constructor(folder: string, port: number) {
    this.folder = folder;
    this.port = port;
  }

  static async start(): Promise<KubeCluster> {
    const cluster = new KubeCluster(await makeTempFolder('kube'), await freePort());
    await cluster.start();
    return cluster;
  }

  /** Starts it, or starts it again on what it held. */
  async start(): Promise<void> {
    this.#daemon = await Daemon.start({
      program: RUN,
      args: [this.folder, String(this.port)],
      env: { KUBE_APISERVER: BINARY },
      isReady: () => this.#answers(),
      readyTimeoutMs: 120_000,
      deathSignal: 'TERM',
    });
  }

  /** Graceful; what it holds stays. */
  async stop(): Promise<void> {
    await this.#daemon?.stop();
  }

  /** Stops it and removes its folder. */
  async remove(): Promise<void> {
    await this.stop();
    await removeFolder(this.folder);
  }

  /** As its administrator, who may do everything. */
  async kubectl(...args: string[]): Promise<string> {
    return run('kubectl', [...this.#flags(), ...args]);
  }

  async tryKubectl(...args: string[]): Promise<RunResult> {
    return tryRun('kubectl', [...this.#flags(), ...args]);
  }

  /** `kubectl apply` of objects. */
  async apply(...objects: readonly object[]): Promise<void> {
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    await run('kubectl', [...this.#flags(), 'apply', '--filename', '-'], { input });
  }

  /** A kubeconfig with which a program is this ServiceAccount, by a token file beside it; its path. */
  async kubeconfigOf(namespace: string, account: string): Promise<string> {
    const token = await this.kubectl('create', 'token', account, '--namespace', namespace);
    const name = `${namespace}-${account}`;
    await writeFile(join(this.folder, `${name}.token`), token);
    const path = join(this.folder, `${name}.kubeconfig`);
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'test',
          cluster: { server: `https://127.0.0.1:${this.port}`, 'certificate-authority': 'apiserver.crt' },
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

  async #answers(): Promise<boolean> {
    if (!existsSync(join(this.folder, 'kubeconfig'))) return false;
    return (await this.tryKubectl('get', '--raw', '/readyz')).code === 0;
  }
}
