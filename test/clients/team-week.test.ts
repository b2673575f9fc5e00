// A team's week with its private registry, by the documentation's own lines and with the clients that teams have.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, imageLayout } from '../support/images.ts';
import { Podman, PODMAN_PROGRAMS } from '../support/podman.ts';
import { hasPrograms, until } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';
import type { Login } from '../support/tenants.ts';

const canRun = hasPrograms('skopeo', ...IMAGE_PROGRAMS, ...PODMAN_PROGRAMS);

/** busybox for three platforms is some 3 MiB; the big image is 320 MiB. */
const QUOTA = '32MiB';

/** Another process learns of a change of logins within a second or two. */
const SOON_MS = 60_000;

describe.skipIf(!canRun)("a team's week", () => {
  let entrepot: Entrepot;
  let skopeo: Skopeo;
  let podman: Podman;
  let monday: Login;

  beforeAll(async () => {
    entrepot = await Entrepot.start({
      tenants: [{ name: 'team-a', quotaBytes: QUOTA }, { name: 'team-b' }],
      hosted: { shared: ['team-a/base'] },
    });
    [skopeo, podman] = await Promise.all([Skopeo.make(), Podman.make()]);
  });

  afterAll(async () => {
    await Promise.all([skopeo.remove(), podman.remove()]);
    await entrepot.remove();
  });

  async function succeed(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await entrepot.command(...args);
    expect({ args, code, stderr }).toMatchObject({ code: 0 });
    return stdout;
  }

  /** By the line that heads the printed Secret: `Elsewhere: docker login …`. */
  async function login(tenant: string, ...args: string[]): Promise<Login> {
    const printed = await succeed('tenant', ...args, '--server', entrepot.host);
    const [, username, password] =
      /docker login \S+ --username (\S+) --password '([^']+)'/.exec(printed) ?? [];
    if (username === undefined || password === undefined)
      throw new Error(`no login of ${tenant}: ${printed}`);
    return [username, password];
  }

  const at = (name: string) => `docker://${entrepot.host}/${name}`;
  const creds = (option: string, [username, password]: Login) => [option, `${username}:${password}`];

  async function push(image: 'busybox' | 'busybox-moved' | 'big', name: string, by: Login): Promise<void> {
    const flags = ['--all', '--quiet', '--dest-tls-verify=false', ...creds('--dest-creds', by)];
    await skopeo.run('copy', ...flags, `oci:${await imageLayout()}:${image}`, at(name));
  }

  const inspect = (name: string, by: Login) =>
    skopeo.run('inspect', '--raw', '--tls-verify=false', ...creds('--creds', by), at(name));

  test('on Monday it gets a login, and pushes and pulls with it', async () => {
    monday = await login('team-a', 'secret', 'team-a');
    await push('busybox', 'team-a/app:v1', monday);
    await push('busybox', 'team-a/app:v1-again', monday);
    await push('busybox-moved', 'team-a/app:v2', monday);
    await podman.run('login', '--tls-verify=false', '-u', monday[0], '-p', monday[1], entrepot.host);
    const image = `${entrepot.host}/team-a/app:v2`;
    await podman.run('pull', '--quiet', '--tls-verify=false', image);
    expect(await podman.run('images', '--format', '{{.Repository}}:{{.Tag}}')).toContain(image);
  });

  test('on Tuesday it shares its base image with another team, and nothing else', async () => {
    await push('busybox', 'team-a/base:1', monday);
    const other = await login('team-b', 'secret', 'team-b');
    expect(await inspect('team-a/base:1', other)).toContain('manifests');
    await expect(inspect('team-a/app:v1', other)).rejects.toThrow(/denied|unknown/i);
    await expect(push('busybox', 'team-a/base:2', other)).rejects.toThrow(/denied|unknown/i);
  });

  test('on Wednesday it reaches its quota, and is told what to do', async () => {
    await expect(push('big', 'team-a/app:big', monday)).rejects.toThrow(/quota of team-a is used up/);
    expect(await inspect('team-a/app:v2', monday)).toContain('manifests');
  });

  test('on Thursday it deletes a tag, and the image stays under its other tags', async () => {
    const told = await succeed('rm', 'team-a/app:v1');
    expect(told).toContain('v1-again');
    await expect(inspect('team-a/app:v1', monday)).rejects.toThrow(/unknown/i);
    expect(await inspect('team-a/app:v1-again', monday)).toContain('manifests');
    const flags = ['--tls-verify=false', ...creds('--creds', monday)];
    await skopeo.run('delete', ...flags, at('team-a/app:v1-again'));
    await expect(inspect('team-a/app:v1-again', monday)).rejects.toThrow(/unknown/i);
  });

  test('on Friday it rotates its login: both are valid during the overlap, then only the new one', async () => {
    const friday = await login('team-a', 'rotate', 'team-a', '--overlap', '24h');
    for (const by of [monday, friday]) expect(await inspect('team-a/app:v2', by)).toContain('manifests');
    const last = await login('team-a', 'rotate', 'team-a', '--overlap', '0s');
    const isRefused = async () =>
      inspect('team-a/app:v2', monday).then(
        () => false,
        () => true,
      );
    await until("the end of Monday's login", SOON_MS, isRefused);
    await expect(inspect('team-a/app:v2', friday)).rejects.toThrow(/unauthorized|invalid username|denied/i);
    await push('busybox', 'team-a/app:v3', last);
    expect(await inspect('team-a/app:v3', last)).toContain('manifests');
  });
});
