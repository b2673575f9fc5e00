// A Docker daemon in front of a mirror while its user is logged in to Docker Hub: what it sends there, and what it gets.
import { writeFile } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS, REGISTRY_USER } from '../support/docker-registry.ts';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { freePort, hasPrograms } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, type Login, writeSecret } from '../support/tenants.ts';

const HUB_LOGIN: Login = ['somebody', 'of-docker-hub'];
const PUBLIC = 'public/busybox:1';
const PRIVATE = 'team/busybox:1';

const canRun = hasPrograms(...DOCKER_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRun)('dockerd with --registry-mirror and a login to Docker Hub', () => {
  let upstream: DockerRegistry;
  let entrepot: Entrepot;
  let wire: Wire;
  let docker: Dockerd;

  beforeAll(async () => {
    upstream = await DockerRegistry.start({ kind: 'token' });
    for (const image of [PUBLIC, PRIVATE]) await pushImage('busybox', upstream, image);
    const folder = await makeTempFolder('hub');
    const host = `127.0.0.1:${await freePort()}`;
    const mirrorPort = await freePort();
    const secrets = join(folder, 'team-a.json');
    await writeSecret(secrets, { 'docker.io': [REGISTRY_USER.username, REGISTRY_USER.password] });
    const realms = upstream.tokenServer === undefined ? [] : [new URL(upstream.tokenServer.realm).host];
    entrepot = await Entrepot.start(
      {
        upstreams: { 'docker.io': { url: upstream.url, realms } },
        tenants: [{ name: 'team-a', secrets }],
        server: {
          listen: [host, { address: `127.0.0.1:${mirrorPort}`, upstream: 'docker.io' }],
          serverNames: [host],
        },
      },
      { folder },
    );
    wire = await Wire.open(mirrorPort);
    docker = await Dockerd.start({ settings: { 'registry-mirrors': [`http://127.0.0.1:${wire.port}`] } });
    await logIn(HUB_LOGIN);
  });
  afterAll(async () => {
    await docker.remove();
    await wire.close();
    await entrepot.remove();
    await upstream.remove();
  });

  /** Leaves what `docker login` would leave: it asks Docker Hub itself, which no test reaches. */
  async function logIn([username, password]: Login): Promise<void> {
    const auth = Buffer.from(`${username}:${password}`).toString('base64');
    await writeFile(
      join(docker.folder, 'client', 'config.json'),
      JSON.stringify({ auths: { 'https://index.docker.io/v1/': { auth } } }),
    );
  }

  test('pulls public images, with a login that is not known here', async () => {
    expect(await docker.run('pull', '--quiet', PUBLIC)).toContain(PUBLIC);
    expect(wire.authorizations()).toContain(basic(HUB_LOGIN).authorization);
  });

  test('does not get a private image', async () => {
    expect((await docker.tryRun('pull', '--quiet', PRIVATE)).code).not.toBe(0);
  });

  test('gets a private image with a login that a tenant has for Docker Hub, and not without it, even if it is stored', async () => {
    await logIn([REGISTRY_USER.username, REGISTRY_USER.password]);
    expect(await docker.run('pull', '--quiet', PRIVATE)).toContain(PRIVATE);
    await docker.run('image', 'rm', '--force', PRIVATE);
    await logIn(HUB_LOGIN);
    expect((await docker.tryRun('pull', '--quiet', PRIVATE)).code).not.toBe(0);
  });
});

/** A TCP line to a port of this machine that remembers what clients say. */
class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #said = '';

  static async open(port: number): Promise<Wire> {
    const wire = new Wire(port);
    await new Promise<void>(resolve => wire.#server.listen(0, '127.0.0.1', resolve));
    return wire;
  }

  private constructor(port: number) {
    this.#server = createServer(client => {
      const server = connect(port, '127.0.0.1');
      for (const socket of [client, server]) {
        this.#sockets.add(socket);
        socket.on('error', () => socket.destroy());
        socket.on('close', () => void (client.destroy(), server.destroy()));
      }
      client.on('data', (chunk: Buffer) => void (this.#said += chunk.toString('latin1')));
      client.pipe(server).pipe(client);
    });
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the wire is not open');
    return address.port;
  }

  /** What stood in the Authorization header of requests, each once. */
  authorizations(): readonly string[] {
    return [
      ...new Set([...this.#said.matchAll(/^authorization: (.*)\r$/gim)].map(([, value = '']) => value)),
    ];
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise(resolve => this.#server.close(resolve));
  }
}
