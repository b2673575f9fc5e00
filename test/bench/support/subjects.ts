import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Entrepot } from '../../support/entrepot.ts';
import { answers, Daemon, freePort } from '../../support/programs.ts';
import { LoopWatch } from './loop-delay.ts';

/** One server under measurement. */
export interface Subject {
  readonly name: string;
  readonly port: number;
  /** What goes behind each path: `?ns=...` or nothing. */
  readonly query: string;
  cpuSeconds(): number;
  peakRssBytes(): number;
  /** Absent for what has no event loop of ours. */
  readonly loop?: LoopWatch;
  stop(): Promise<void>;
}

/** The name under which Entrepot knows the upstream of the bench. */
const UPSTREAM = 'upstream.example';

/** Entrepot with an empty store and one upstream. */
export async function startEntrepot(
  upstreamPort: number,
  folder?: string,
  options: { readonly connectionsPerBlob?: number } = {},
): Promise<Subject & { suspend(): Promise<void> }> {
  const own = folder ?? (await mkdtemp(join(tmpdir(), 'entrepot-bench-')));
  const upstreams = { [UPSTREAM]: { url: `http://127.0.0.1:${upstreamPort}`, ...options } };
  const entrepot = await Entrepot.start({ upstreams }, { folder: own });
  return {
    name: 'entrepot',
    port: Number(new URL(entrepot.url).port),
    query: `?ns=${UPSTREAM}`,
    cpuSeconds: () => entrepot.cpuSeconds(),
    peakRssBytes: () => entrepot.peakRss(),
    loop: new LoopWatch(entrepot),
    stop: () => entrepot.remove(),
    suspend: () => entrepot.stop(),
  };
}

/** Entrepot that has pulled an image already, in a process that has done nothing yet: its memory is that of serving. */
export async function startWarmEntrepot(
  upstreamPort: number,
  pull: (subject: Subject) => Promise<void>,
): Promise<Subject> {
  const folder = await mkdtemp(join(tmpdir(), 'entrepot-bench-'));
  const filling = await startEntrepot(upstreamPort, folder);
  await pull(filling);
  await filling.suspend();
  return startEntrepot(upstreamPort, folder);
}

/**
 * Debian's docker-registry: with `upstreamPort` as a pull-through proxy, else as an open registry. `storage`: the
 * configuration of its storage driver instead of a folder.
 */
export async function startDockerRegistry(
  upstreamPort?: number,
  storage?: object,
): Promise<Subject & { readonly dataFolder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'docker-registry-bench-'));
  const port = await freePort();
  const config = {
    version: 0.1,
    log: { level: 'error', accesslog: { disabled: true } },
    storage: {
      ...(storage ?? { filesystem: { rootdirectory: join(folder, 'data') } }),
      delete: { enabled: true },
    },
    http: { addr: `127.0.0.1:${port}` },
    ...(upstreamPort === undefined ? {} : { proxy: { remoteurl: `http://127.0.0.1:${upstreamPort}` } }),
  };
  await writeFile(join(folder, 'config.yml'), JSON.stringify(config));
  const subject = await startDaemon('docker-registry', folder, port, `http://127.0.0.1:${port}/v2/`, {
    program: 'docker-registry',
    args: ['serve', join(folder, 'config.yml')],
    // Its S3 client cannot add CAs to its own.
    env: { AWS_CA_BUNDLE: '' },
  });
  return { ...subject, dataFolder: join(folder, 'data') };
}

/**
 * nginx over files laid out as a registry's paths: what sendfile can do, without any registry. `bytesPerS`: for each
 * connection; unlimited by default.
 */
export function startNginx(files: ReadonlyMap<string, string>, bytesPerS?: number): Promise<Subject> {
  const limit = bytesPerS === undefined ? '' : `limit_rate ${Math.round(bytesPerS)};`;
  const locations = [...files].map(
    ([path, file]) => `location = ${path} { alias ${file}; default_type application/octet-stream; }`,
  );
  return startNginxWith('nginx', () => [limit, ...locations]);
}

/** nginx that passes on what it gets from `origin`: what a server in between can do, without any registry. */
export function startNginxProxy(origin: URL, options: { readonly keeps: boolean }): Promise<Subject> {
  const name = options.keeps ? 'nginx, keeping it' : 'nginx, passing it on';
  return startNginxWith(name, folder => [
    'proxy_buffers 64 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 1m;',
    options.keeps ? `proxy_store ${folder}/kept;` : 'proxy_max_temp_file_size 0;',
    `location / { proxy_pass ${origin.origin}; proxy_http_version 1.1; proxy_set_header Host ${origin.host}; }`,
  ]);
}

async function startNginxWith(
  name: string,
  serverOf: (folder: string) => readonly string[],
): Promise<Subject> {
  const folder = await mkdtemp(join(tmpdir(), 'nginx-bench-'));
  const port = await freePort();
  await mkdir(join(folder, 'tmp'));
  const conf = `
    master_process off; daemon off; pid ${folder}/pid; error_log ${folder}/error.log; user root;
    events { worker_connections 1024; }
    http {
      access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
      client_body_temp_path ${folder}/tmp; proxy_temp_path ${folder}/tmp; fastcgi_temp_path ${folder}/tmp;
      uwsgi_temp_path ${folder}/tmp; scgi_temp_path ${folder}/tmp;
      server { listen 127.0.0.1:${port}; location = /ready { return 200; } ${serverOf(folder).join('\n')} }
    }`;
  await writeFile(join(folder, 'nginx.conf'), conf);
  return startDaemon(name, folder, port, `http://127.0.0.1:${port}/ready`, {
    program: 'nginx',
    args: ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')],
  });
}

async function startDaemon(
  name: string,
  folder: string,
  port: number,
  readyUrl: string,
  command: { program: string; args: readonly string[]; env?: Record<string, string> },
): Promise<Subject> {
  const daemon = await Daemon.start({ ...command, isReady: () => answers(readyUrl) });
  return {
    name,
    port,
    query: '',
    cpuSeconds: () => daemon.cpuSeconds(),
    peakRssBytes: () => daemon.peakRssBytes(),
    stop: async () => {
      await daemon.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
