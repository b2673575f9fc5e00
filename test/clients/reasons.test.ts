// What people see when a pull or push is refused: each client prints why. skopeo and podman show the body of 4xx and the
// warning of 5xx; Docker the body of 4xx, and of 5xx only the status line; containerd only the status line, and of 404
// and 401 nothing at all.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { IMAGE_PROGRAMS, imageLayout } from '../support/images.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { freePort, hasPrograms, run, type RunResult } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { type Login, writeSecret } from '../support/tenants.ts';

const UP = 'up.example';
const LIMITED = 'limited.example';
const TEAM: Login = ['team-a', 'password-of-team-a'];
const CREDENTIALS = TEAM.join(':');

const RIGHT = /team-a is not allowed to pull it \(upstreams and repositories of the tenant\)/;
const BACKOFF = /upstream is not asked again for \d+s: up\.example responded 503/;
const LIMIT = /limited\.example limits the rate of requests/;
const NAME = /nowhere\.example\/app is not known here: hosted repositories begin with a tenant's name/;
const QUOTA = /the quota of team-a is used up: its repositories may store 8KiB/;
const MIRROR = /up\.example\/app is a mirror of up\.example: it can only be pulled/;

let upstream: FakeUpstream;
let limited: FakeUpstream;
let entrepot: Entrepot;
let folder: string;
/** A small image that is not in the registry, with a name for any program that asks for one. */
let archive: string;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('app', imageOf([randomBlob(1_000, 'reasons')]), '1');
  upstream.misbehave({ repository: 'down', status: 503 });
  limited = await FakeUpstream.start();
  limited.misbehave({ status: 429, headers: { 'Retry-After': '1' } });
  folder = await makeTempFolder('reasons');
  const host = `127.0.0.1:${await freePort()}`;
  const secret = join(folder, 'team-a.yaml');
  await writeSecret(secret, { [host]: TEAM });
  entrepot = await Entrepot.start({
    server: { listen: host, serverNames: [host] },
    upstreams: { [UP]: { url: upstream.url }, [LIMITED]: { url: limited.url } },
    tenants: [{ name: 'team-a', secrets: secret, quotaBytes: '8KiB', repositories: [`${UP}/app`] }],
  });
  if (!hasPrograms(...IMAGE_PROGRAMS)) return;
  archive = join(folder, 'image.tar');
  await run('skopeo', [
    'copy',
    '--quiet',
    `oci:${await imageLayout()}:busybox`,
    `docker-archive:${archive}:localhost/busybox:1`,
  ]);
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
  await limited.stop();
  await removeFolder(folder);
});

const at = (name: string) => `${entrepot.host}/${name}`;

async function failure(ran: Promise<RunResult>): Promise<string> {
  const { code, stdout, stderr } = await ran;
  expect(code).not.toBe(0);
  return stdout + stderr;
}

/** One that has asked before is told of the failure itself. */
async function twice(ran: () => Promise<string>): Promise<string> {
  await ran();
  return ran();
}

describe.skipIf(!hasPrograms('skopeo', ...IMAGE_PROGRAMS))('skopeo', () => {
  let skopeo: Skopeo;
  beforeAll(async () => void (skopeo = await Skopeo.make()));
  afterAll(async () => skopeo.remove());

  const pull = (name: string, ...flags: string[]) =>
    failure(
      skopeo.config.tryRun('skopeo', 'inspect', '--tls-verify=false', ...flags, `docker://${at(name)}`),
    );
  const push = (name: string, ...flags: string[]) => {
    const target = ['--dest-tls-verify=false', ...flags, `docker-archive:${archive}`, `docker://${at(name)}`];
    return failure(skopeo.config.tryRun('skopeo', 'copy', ...target));
  };

  test('prints why a pull fails', async () => {
    const login = ['--creds', CREDENTIALS];
    expect(await pull(`${UP}/other:1`, ...login)).toMatch(RIGHT);
    expect(await twice(() => pull(`${UP}/down:1`, '--no-creds'))).toMatch(BACKOFF);
    expect(await pull(`${LIMITED}/app:1`, '--no-creds')).toMatch(LIMIT);
    expect(await pull('nowhere.example/app:1', ...login)).toMatch(NAME);
  });

  test('prints why a push fails', async () => {
    const login = ['--dest-creds', CREDENTIALS];
    expect(await push('team-a/app:1', ...login)).toMatch(QUOTA);
    expect(await push(`${UP}/app:2`, ...login)).toMatch(MIRROR);
  });
});

describe.skipIf(!hasPrograms(...PODMAN_PROGRAMS, ...IMAGE_PROGRAMS))('podman', () => {
  let podman: Podman;
  beforeAll(async () => {
    podman = await Podman.make();
    await podman.run('load', '--quiet', '--input', archive);
  });
  afterAll(async () => podman.remove());

  const pull = (name: string, ...flags: string[]) =>
    failure(podman.tryRun('pull', '--retry', '0', '--tls-verify=false', ...flags, at(name)));
  const push = (name: string, ...flags: string[]) =>
    failure(
      podman.tryRun('push', '--retry', '0', '--tls-verify=false', ...flags, 'localhost/busybox:1', at(name)),
    );

  test('prints why a pull fails', async () => {
    const login = ['--creds', CREDENTIALS];
    expect(await pull(`${UP}/other:1`, ...login)).toMatch(RIGHT);
    expect(await twice(() => pull(`${UP}/down:2`))).toMatch(BACKOFF);
    expect(await pull(`${LIMITED}/app:2`)).toMatch(LIMIT);
    expect(await pull('nowhere.example/app:1', ...login)).toMatch(NAME);
  });

  test('prints why a push fails', async () => {
    const login = ['--creds', CREDENTIALS];
    expect(await push('team-a/app:1', ...login)).toMatch(QUOTA);
    expect(await push(`${UP}/app:2`, ...login)).toMatch(MIRROR);
  });
});

describe.skipIf(!hasPrograms(...DOCKER_PROGRAMS, ...IMAGE_PROGRAMS))('Docker', () => {
  let docker: Dockerd;
  beforeAll(async () => {
    docker = await Dockerd.start();
    await docker.run('load', '--quiet', '--input', archive);
  });
  afterAll(async () => docker.remove());

  const pull = (name: string) => failure(docker.tryRun('pull', at(name)));
  const push = async (name: string) => {
    await docker.run('tag', 'localhost/busybox:1', at(name));
    return failure(docker.tryRun('push', at(name)));
  };
  const logIn = () => docker.run('login', '--username', TEAM[0], '--password', TEAM[1], entrepot.host);

  test('prints why a pull fails', async () => {
    expect(await twice(() => pull(`${UP}/down:3`))).toMatch(BACKOFF);
    expect(await pull(`${LIMITED}/app:3`)).toMatch(LIMIT);
    await logIn();
    expect(await pull(`${UP}/other:1`)).toMatch(RIGHT);
    expect(await pull('nowhere.example/app:1')).toMatch(NAME);
  });

  test('prints why a push fails', async () => {
    await logIn();
    expect(await push('team-a/app:1')).toMatch(QUOTA);
    expect(await push(`${UP}/app:2`)).toMatch(MIRROR);
  });
});

describe.skipIf(!hasPrograms(...CONTAINERD_PROGRAMS, ...IMAGE_PROGRAMS))('containerd', () => {
  let node: Containerd;
  const local = 'localhost/busybox:1';
  beforeAll(async () => {
    node = await Containerd.start();
    await node.run('images', 'import', '--no-unpack', archive);
  });
  afterAll(async () => node.remove());

  const pull = (name: string, user?: string) =>
    failure(node.tryPull(at(name), user === undefined ? {} : { user }));
  const kubelet = (name: string, username?: string, password?: string) =>
    node.cri
      .pull(at(name), username === undefined || password === undefined ? undefined : { username, password })
      .then(
        () => 'pulled',
        (error: unknown) => String(error),
      );
  const push = async (name: string) => {
    const flags = ['--plain-http', '--user', CREDENTIALS];
    return node.run('images', 'push', ...flags, at(name), local).then(
      () => 'pushed',
      (error: unknown) => String(error),
    );
  };

  test('prints why a pull fails; of a name that is not known, only that it is not for this login', async () => {
    expect(await pull(`${UP}/other:1`, CREDENTIALS)).toMatch(RIGHT);
    expect(await twice(() => pull(`${UP}/down:4`))).toMatch(BACKOFF);
    expect(await pull(`${LIMITED}/app:4`)).toMatch(LIMIT);
    expect(await pull('nowhere.example/app:1', CREDENTIALS)).toMatch(/pull access denied/);
  });

  test('tells the kubelet, too', async () => {
    expect(await kubelet(`${UP}/other:1`, ...TEAM)).toMatch(RIGHT);
    expect(await twice(() => kubelet(`${UP}/down:5`))).toMatch(BACKOFF);
    expect(await kubelet(`${LIMITED}/app:5`)).toMatch(LIMIT);
  });

  test('prints why a push fails', async () => {
    expect(await push('team-a/app:1')).toMatch(QUOTA);
    expect(await push(`${UP}/app:2`)).toMatch(MIRROR);
  });
});
