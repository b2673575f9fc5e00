// docker-compose.replicas.yml, as docs/replicas.md says to start it, by the real Docker engine. Its images are made of this
// machine's programs (service-images.ts); everything else is what people get.
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { loadBuiltImage } from '../support/built-image.ts';
import { randomBlob } from '../support/content.ts';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { IMAGE_PROGRAMS, imageLayout, pushImage } from '../support/images.ts';
import { FIXED, UPSTREAM } from '../support/mirrored-registry.ts';
import { HAS_POSTGRES } from '../support/postgres.ts';
import { freePort, hasPrograms, run } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';
import { buildServiceImages } from '../support/service-images.ts';
import { BUSYBOX_BLOBS, countIntact, Skopeo } from '../support/skopeo.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const NAME = 'cmpr';
const FILE = 'docker-compose.replicas.yml';
const REPLICAS = ['replica1', 'replica2', 'replica3'] as const;
const PUSHED = 'team/app:1';

const canRun =
  HAS_POSTGRES &&
  hasPrograms('mmdebstrap', 'docker-compose', 'haproxy', ...DOCKER_PROGRAMS) &&
  hasPrograms(...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

/** Of a line of a replica's log. */
interface LoggedRequest {
  readonly method: string;
  readonly route: string;
  readonly repository?: string;
}

/** The command of the page that makes the secrets. */
async function secretsCommand(): Promise<string> {
  const page = await readFile(join(PROJECT, 'docs', 'replicas.md'), 'utf8');
  const blocks = [...page.matchAll(/^```sh\n([^]*?)^```$/gm)].map(([, text = '']) => text);
  const [found, ...others] = blocks.filter(text => text.includes('secrets'));
  if (found === undefined || others.length > 0) throw new Error('expected one block that makes the secrets');
  return found;
}

describe.skipIf(!canRun)('three replicas, run by docker compose', () => {
  let docker: Dockerd;
  let skopeo: Skopeo;
  let folder: string;
  let host: string;
  let upstream: DockerRegistry | undefined;

  beforeAll(async () => {
    docker = await Dockerd.start();
    skopeo = await Skopeo.make();
    // What a person has who cloned the repository.
    folder = await makeTempFolder(NAME);
    await mkdir(join(folder, 'config'));
    await cp(join(PROJECT, 'config', 'replicas'), join(folder, 'config', 'replicas'), { recursive: true });
    await run('sh', ['-c', await secretsCommand()], { cwd: folder });
    await loadBuiltImage(docker, 'entrepot');
    const images = await buildServiceImages(docker, 'entrepot', join(folder, 'images'));
    const port = await freePort();
    host = `127.0.0.1:${port}`;
    const lines = Object.entries({ ...images, ENTREPOT_PORT: String(port) }).map(pair => pair.join('='));
    await writeFile(join(folder, '.env'), `${lines.join('\n')}\n`);
  }, 900_000);

  afterAll(async () => {
    await compose('down', '--volumes', '--timeout', '1');
    await docker.remove();
    await upstream?.remove();
    await skopeo.remove();
    await removeFolder(folder);
  });

  async function compose(...args: string[]): Promise<string> {
    const project = ['--project-directory', folder, '--project-name', NAME];
    return docker.run('compose', '--file', join(PROJECT, FILE), ...project, ...args);
  }

  /** Up, and all of it healthy. */
  async function up(): Promise<void> {
    await compose('up', '--detach', '--no-build', '--wait', '--wait-timeout', '120');
  }

  /** What a replica has answered, from its log. */
  async function requestsOf(replica: string): Promise<readonly LoggedRequest[]> {
    const { stdout, stderr } = await docker.tryRun('logs', `${NAME}-${replica}-1`);
    return `${stdout}${stderr}`
      .split('\n')
      .filter(line => line.startsWith('{') && line.includes('"route"'))
      .map(line => JSON.parse(line) as LoggedRequest);
  }

  /** Pulls an image with all its platforms; how many of its blobs are what their names say. */
  async function pulledBlobs(reference: string): Promise<number> {
    return countIntact(await skopeo.copyOut(`${host}/${reference}`, '--all', '--preserve-digests'));
  }

  test('becomes healthy with docker compose up', async () => {
    await compose('create', '--no-build');
    const gateway = await docker.run(
      'network',
      'inspect',
      '--format',
      '{{(index .IPAM.Config 0).Gateway}}',
      `${NAME}_clients`,
    );
    upstream = await DockerRegistry.start({ kind: 'open' }, gateway.trim());
    const file = join(folder, 'config', 'replicas', 'entrepot.yaml');
    const config: unknown = parse(await readFile(file, 'utf8'));
    const own = {
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      hosted: { prefixes: ['team'], anonymous: 'push', anonymousBeyondLoopback: true },
    };
    await writeFile(file, stringify(Object.assign({}, config, own)));
    await up();
    expect((await fetch(`http://${host}/v2/`)).status).toBe(200);
  }, 180_000);

  test('publishes the port of the proxy alone', async () => {
    const listed = await docker.run('ps', '--format', '{{.Names}} {{.Ports}}');
    const published = listed.split('\n').filter(line => line.includes('->'));
    expect(published.map(line => line.split(' ')[0])).toEqual([`${NAME}-proxy-1`]);
  });

  test('pulls an image by whichever replica, with one GET of each blob', async () => {
    await pushImage('busybox', upstream!, FIXED);
    await upstream!.forgetRequests();
    const pulls = REPLICAS.map(() => pulledBlobs(`${UPSTREAM}/${FIXED}`));
    expect(await Promise.all(pulls)).toEqual(REPLICAS.map(() => BUSYBOX_BLOBS));
    const requests = await upstream!.requests();
    // Ranges (206) are proofs of a client's right, and none of them downloads a blob.
    const blobs = requests
      .filter(({ method, path, status }) => method === 'GET' && status === 200 && path.includes('/blobs/'))
      .map(({ path }) => path);
    expect(blobs.toSorted()).toEqual([...new Set(blobs)].toSorted());
    expect(blobs).toHaveLength(BUSYBOX_BLOBS);
    for (const replica of REPLICAS) {
      const gets = (await requestsOf(replica)).filter(({ method, route }) => {
        return method === 'GET' && route === 'blob';
      });
      expect([replica, gets.length]).not.toEqual([replica, 0]);
    }
  });

  test('takes the chunks of an upload by one replica after the other', async () => {
    const url = `http://${host}`;
    const blob = randomBlob(3 * 2 ** 20, 'chunks');
    const session = new URL(await pushClient.beginUpload(url, 'team/chunks'), url);
    for (let start = 0; start < blob.size; start += 2 ** 20) {
      const options = { start, end: start + 2 ** 20 };
      expect(await pushClient.sendBytes('PATCH', session.href, blob, options)).toBe(202);
    }
    session.searchParams.set('digest', blob.digest);
    expect(await pushClient.sendBytes('PUT', session.href, blob, { start: blob.size })).toBe(201);
    const counts = () =>
      Promise.all(
        REPLICAS.map(async replica => {
          const requests = (await requestsOf(replica)).filter(each => each.repository === 'team/chunks');
          return requests.filter(({ route }) => route === 'upload').length;
        }),
      );
    // Four, of one session, which began at one of them; the engine has their lines a moment later.
    await expect.poll(async () => (await counts()).toSorted((a, b) => a - b)).toEqual([1, 1, 2]);
  });

  test('pushes an image', async () => {
    const layout = `oci:${await imageLayout()}:busybox`;
    await skopeo.run(
      'copy',
      '--quiet',
      '--all',
      '--preserve-digests',
      '--dest-tls-verify=false',
      layout,
      `docker://${host}/${PUSHED}`,
    );
    expect(await pulledBlobs(PUSHED)).toBe(BUSYBOX_BLOBS);
  });

  test('goes on when a replica is killed, and the upstream is away', async () => {
    await docker.run('kill', `${NAME}-replica2-1`);
    await upstream!.stop();
    for (const reference of [PUSHED, `${UPSTREAM}/${FIXED}`]) {
      const pulls = REPLICAS.map(() => pulledBlobs(reference));
      expect(await Promise.all(pulls)).toEqual(REPLICAS.map(() => BUSYBOX_BLOBS));
    }
    await up();
    expect((await requestsOf('replica2')).length).toBeGreaterThan(0);
  }, 180_000);

  test('leaves nothing behind with docker compose down --volumes', async () => {
    await compose('down', '--volumes');
    expect(await docker.run('ps', '--all', '--quiet')).toBe('');
    expect(await docker.run('volume', 'ls', '--quiet')).toBe('');
    expect(await docker.run('network', 'ls', '--quiet', '--filter', 'driver=bridge')).toBe('');
  }, 120_000);
});
