import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { STARTER } from '../support/entrepot.ts';
import { type RunResult, tryRun } from '../support/programs.ts';
import { load } from './support/load.ts';
import type { PushedImage } from './support/push.ts';
import { startDockerRegistry, startEntrepot } from './support/subjects.ts';
import { LOOP_DELAY, worstDelay } from './support/loop-delay.ts';
import { spread, table } from './support/table.ts';

const UPSTREAM = 'upstream.example';
const ROUNDS = 3;
const MB = 1e6;
/** As long as an export or import takes. */
const SERVING_SECONDS = 3;

/** Export and import of one image, beside skopeo with the same image in an oci-archive; alternating. */
export async function bundles(upstreamPort: number, image: PushedImage): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'entrepot-bench-'));
  const seconds: Record<string, number[]> = {};
  const note = (what: string, value: number) => (seconds[what] ??= []).push(value);
  try {
    const source = await configIn(folder, 'source', upstreamPort);
    const reference = `${UPSTREAM}/${image.repository}:${image.tag}`;
    await entrepot(source, 'pull', reference);
    for (let round = 0; round < ROUNDS; round += 1) {
      const bundle = join(folder, `bundle-${round}.tar`);
      const archive = join(folder, `skopeo-${round}.tar`);
      note('entrepot export', await entrepot(source, 'export', reference, '-o', bundle));
      const from = `docker://127.0.0.1:${upstreamPort}/${image.repository}:${image.tag}`;
      note(
        'skopeo copy docker: oci-archive:',
        await skopeo('--src-tls-verify=false', from, `oci-archive:${archive}:x:1`),
      );
      for (const file of [bundle, archive]) {
        if ((await stat(file)).size < image.bytes) throw new Error(`${file} is not whole`);
      }
      const target = await configIn(folder, `target-${round}`, upstreamPort);
      note('entrepot import', await entrepot(target, 'import', bundle));
      await entrepot(target, 'check', reference);
      const registry = await startDockerRegistry();
      const to = `docker://127.0.0.1:${registry.port}/x:1`;
      note(
        'skopeo copy oci-archive: docker:',
        await skopeo('--dest-tls-verify=false', `oci-archive:${archive}`, to),
      );
      await registry.stop();
      for (const name of [bundle, archive, join(folder, `target-${round}`)])
        await rm(name, { recursive: true });
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const rows = Object.entries(seconds).map(([what, values]) => [
    what,
    spread(values, 2),
    spread(
      values.map(value => image.bytes / MB / value),
      0,
    ),
  ]);
  return table(
    `Bundles of ${Math.round(image.bytes / MB)} MB, process start included`,
    ['', 's', 'MB/s'],
    rows,
  );
}

/** What the clients of a server notice of an export from its store, and of an import into it. */
export async function bundlesWhileServing(upstreamPort: number, image: PushedImage): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'entrepot-bench-'));
  const bundle = join(folder, 'bundle.tar');
  const reference = `${UPSTREAM}/${image.repository}:${image.tag}`;
  const measured = async (place: string, ...args: readonly string[]) => {
    const server = await startEntrepot(upstreamPort, join(folder, place));
    const config = join(folder, place, 'config.yaml');
    try {
      if (args[0] === 'export') await entrepot(config, 'pull', reference);
      const serving = load({
        kind: 'rate',
        port: server.port,
        path: `/v2/${image.repository}/manifests/${image.digest}${server.query}`,
        headers: 'Accept: application/vnd.oci.image.manifest.v1+json\r\n',
        connections: 4,
        seconds: SERVING_SECONDS,
        expectBytes: image.manifestBytes,
      });
      await server.loop?.read();
      const seconds = await entrepot(config, ...args);
      const delay = await server.loop?.read();
      return { seconds, delays: delay === undefined ? [] : [delay], p99Ms: (await serving).p99Ms };
    } finally {
      await server.stop();
    }
  };
  const rows: string[][] = [];
  try {
    for (const what of ['export', 'import'] as const) {
      const rounds = [];
      for (let round = 0; round < ROUNDS; round += 1) {
        const args = what === 'export' ? [what, reference, '-o', bundle] : [what, bundle];
        rounds.push(await measured(`${what}-${round}`, ...args));
        if (what === 'export' && round < ROUNDS - 1) await rm(bundle);
      }
      rows.push([
        what,
        spread(
          rounds.map(({ seconds }) => seconds),
          2,
        ),
        spread(
          rounds.map(({ p99Ms }) => p99Ms),
          1,
        ),
        worstDelay(rounds.flatMap(({ delays }) => delays)),
      ]);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return table(
    'A server meanwhile: warm manifest, 4 connections',
    ['', 'bundle s', 'manifest p99 ms', LOOP_DELAY],
    rows,
  );
}

/** Pulls of many images into an empty store, beside skopeo sync into a folder; alternating. */
export async function prepull(upstreamPort: number, images: readonly PushedImage[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'entrepot-bench-'));
  const own: number[] = [];
  const peer: number[] = [];
  try {
    const list = join(folder, 'images.txt');
    await writeFile(list, images.map(({ repository, tag }) => `${UPSTREAM}/${repository}:${tag}\n`).join(''));
    const sync = join(folder, 'sync.yaml');
    const tags = Object.fromEntries(images.map(({ repository, tag }) => [repository, [tag]]));
    await writeFile(
      sync,
      JSON.stringify({ [`127.0.0.1:${upstreamPort}`]: { 'tls-verify': false, images: tags } }),
    );
    for (let round = 0; round < ROUNDS; round += 1) {
      const target = await configIn(folder, `pull-${round}`, upstreamPort);
      own.push(await entrepot(target, 'pull', '--from', list));
      await entrepot(target, 'check', '--from', list);
      const out = join(folder, `sync-${round}`);
      peer.push(await timed('skopeo', ['sync', '--src', 'yaml', '--dest', 'dir', sync, out]));
      for (const name of [`pull-${round}`, `sync-${round}`])
        await rm(join(folder, name), { recursive: true });
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const bytes = images.reduce((sum, image) => sum + image.bytes, 0);
  return table(
    `Pre-pull of ${images.length} images, ${Math.round(bytes / MB)} MB`,
    ['', 's'],
    [
      ['entrepot pull', spread(own, 2)],
      ['skopeo sync', spread(peer, 2)],
    ],
  );
}

/** A configuration with a store of its own. */
async function configIn(folder: string, name: string, upstreamPort: number): Promise<string> {
  const file = join(folder, `${name}.yaml`);
  const upstreams = { [UPSTREAM]: { url: `http://127.0.0.1:${upstreamPort}` } };
  await writeFile(file, JSON.stringify({ storage: { path: join(folder, name) }, upstreams }));
  return file;
}

function entrepot(config: string, ...args: string[]): Promise<number> {
  return timed(process.execPath, [...STARTER, ...args, '--config', config]);
}

function skopeo(...args: string[]): Promise<number> {
  return timed('skopeo', ['--insecure-policy', 'copy', '--quiet', ...args]);
}

/** Seconds that a program takes, which must succeed. */
async function timed(program: string, args: readonly string[]): Promise<number> {
  const startedMs = performance.now();
  const { code, stderr }: RunResult = await tryRun(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`);
  return (performance.now() - startedMs) / 1000;
}
