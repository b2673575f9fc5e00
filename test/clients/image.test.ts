import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { loadBuiltImage } from '../support/built-image.ts';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { FIXED, UPSTREAM } from '../support/mirrored-registry.ts';
import { answers, freePort, hasPrograms, until } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

const canRun = hasPrograms(
  'mmdebstrap',
  'docker-compose',
  ...DOCKER_PROGRAMS,
  ...REGISTRY_PROGRAMS,
  ...IMAGE_PROGRAMS,
);

describe.skipIf(!canRun)('the image, built by docker and run by docker compose', () => {
  let docker: Dockerd;
  let skopeo: Skopeo;
  let folder: string;
  let port: number;
  let opsPort: number;
  let upstream: DockerRegistry;

  beforeAll(async () => {
    docker = await Dockerd.start();
    skopeo = await Skopeo.make();
    // What a person has who cloned the repository: config/ and a storage/ that belongs to them.
    folder = await makeTempFolder('cmp');
    for (const name of ['config', 'storage']) await mkdir(join(folder, name));
    port = await freePort();
    opsPort = await freePort();
    await writeFile(join(folder, '.env'), `ENTREPOT_PORT=${port}\nENTREPOT_OPS_PORT=${opsPort}\n`);
  });
  afterAll(async () => {
    await compose('down', '--volumes');
    await docker.remove();
    await upstream.remove();
    await skopeo.remove();
    await removeFolder(folder);
  });

  async function compose(...args: string[]): Promise<string> {
    const file = join(PROJECT, 'docker-compose.yml');
    return docker.run(
      'compose',
      '--file',
      file,
      '--project-directory',
      folder,
      '--project-name',
      'cmp',
      ...args,
    );
  }

  async function inspect(
    kind: 'image' | 'container' | 'network',
    name: string,
    format: string,
  ): Promise<string> {
    return (await docker.run(kind, 'inspect', '--format', format, name)).trim();
  }

  /** Up, and healthy by the image's own health check. */
  async function up(): Promise<void> {
    await compose('up', '--detach', '--no-build');
    const health = '{{.State.Health.Status}}';
    const isHealthy = async () => (await inspect('container', 'cmp-entrepot-1', health)) === 'healthy';
    await until('the container to be healthy', 60_000, isHealthy);
  }

  test('is built from the Dockerfile to run as a numeric user, without what only the build needs', async () => {
    await loadBuiltImage(docker, 'entrepot');
    expect(await inspect('image', 'entrepot', '{{.Config.User}}')).toBe('1000:1000');
    const inImage = (...args: string[]) => docker.tryRun('run', '--rm', '--network', 'none', ...args);
    for (const name of ['typescript', 'vite', 'preact', 'playwright-core']) {
      const listed = await inImage('--entrypoint', 'ls', 'entrepot', `/app/node_modules/${name}`);
      expect([name, listed.code]).not.toEqual([name, 0]);
    }
    expect((await inImage('--entrypoint', 'ls', 'entrepot', '/app/dist/ui/index.html')).code).toBe(0);
    expect((await inImage('entrepot', '--version')).code).toBe(0);
  }, 900_000);

  test('becomes healthy with docker compose up, on a read-only root', async () => {
    await compose('create', '--no-build');
    const gateway = await inspect('network', 'cmp_default', '{{(index .IPAM.Config 0).Gateway}}');
    upstream = await DockerRegistry.start({ kind: 'open' }, gateway);
    const config: unknown = parse(await readFile(join(PROJECT, 'config', 'container.yaml'), 'utf8'));
    const upstreams = { [UPSTREAM]: { url: upstream.url } };
    await writeFile(
      join(folder, 'config', 'container.yaml'),
      stringify(Object.assign({}, config, { upstreams })),
    );
    await up();
    expect(await answers(`http://127.0.0.1:${opsPort}/readyz`, 200)).toBe(true);
    const touch = await docker.tryRun('exec', 'cmp-entrepot-1', 'touch', '/app/x');
    expect(touch.stderr).toContain('Read-only file system');
  });

  test('serves an image', async () => {
    await pushImage('busybox', upstream, FIXED);
    await skopeo.copyOut(`127.0.0.1:${port}/${UPSTREAM}/${FIXED}`, '--all');
    expect(existsSync(join(folder, 'storage', 'index.db'))).toBe(true);
  });

  test('runs commands on the store of its server, and for no other user', async () => {
    const images = (user: string) =>
      docker.tryRun('exec', '--user', user, '--workdir', '/tmp', 'cmp-entrepot-1', 'entrepot', 'images');
    expect(await images('1000:1000')).toMatchObject({ code: 0, stdout: expect.stringContaining(UPSTREAM) });
    // Without capabilities root can become nobody else.
    const root = await images('0:0');
    expect(root).toMatchObject({ code: 1, stderr: expect.stringContaining('run the command as that user') });
    const files = await readdir(join(folder, 'storage'), { recursive: true });
    // What is still being stored may just have got its name.
    const found = await Promise.all(
      files.map(name => absentAsUndefined(stat(join(folder, 'storage', name)))),
    );
    expect(new Set(found.flatMap(each => each?.uid ?? []))).toEqual(new Set([1000]));
  });

  test('keeps the store when it is started again', async () => {
    await compose('down');
    await upstream.stop();
    await up();
    const copy = await skopeo.copyOut(`127.0.0.1:${port}/${UPSTREAM}/${FIXED}`, '--all');
    expect(existsSync(join(copy, 'manifest.json'))).toBe(true);
  });
});
