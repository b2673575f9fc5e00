// Artifacts that refer to images: oras by the referrers API, cosign by tags and by the referrers API.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import type { Entrepot } from '../support/entrepot.ts';
import { servedDigest, startHosting } from '../support/hosted-registry.ts';
import { IMAGE_PROGRAMS, imageDigest, imageLayout } from '../support/images.ts';
import { hasPrograms, type RunResult, run, tryRun } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

let entrepot: Entrepot;
let folder: string;
beforeAll(async () => {
  entrepot = await startHosting();
  folder = await makeTempFolder('art');
});
afterAll(async () => {
  await entrepot.remove();
  await removeFolder(folder);
});

/** They run in the folder, with no log-in and no cache of the machine. */
async function runHere(program: string, ...args: string[]): Promise<string> {
  const result = await tryRunHere(program, ...args);
  if (result.code !== 0) throw new Error(`${program} ${args.join(' ')}: ${result.stdout}${result.stderr}`);
  return result.stdout;
}

async function tryRunHere(program: string, ...args: string[]): Promise<RunResult> {
  const cosign = { COSIGN_PASSWORD: 'secret', COSIGN_EXPERIMENTAL: '1' };
  return tryRun(program, args, { cwd: folder, env: { HOME: folder, DOCKER_CONFIG: folder, ...cosign } });
}

/** A command of oras that answers in JSON. */
async function orasJson(...args: string[]): Promise<Record<string, unknown>> {
  return Object(JSON.parse(await runHere('oras', ...args, '--format', 'json')));
}

/** The digests of what refers to a reference, by oras. */
async function referrers(...reference: string[]): Promise<readonly unknown[]> {
  const { manifests } = await orasJson('discover', ...reference);
  return Array.isArray(manifests) ? manifests.map(manifest => Object(manifest).digest) : [];
}

describe.skipIf(!hasPrograms('oras'))('oras', () => {
  const SBOM = 'application/vnd.test.sbom';

  let subject: unknown;
  let sbom: unknown;
  beforeAll(async () => {
    await writeFile(join(folder, 'data.txt'), 'data\n');
    await writeFile(join(folder, 'sbom.json'), '{}\n');
    const reference = `${entrepot.host}/team/artifact:1`;
    const type = ['--artifact-type', 'application/vnd.test'];
    ({ digest: subject } = await orasJson('push', '--plain-http', ...type, reference, 'data.txt:text/plain'));
    const attach = ['attach', '--plain-http', '--artifact-type', SBOM];
    ({ digest: sbom } = await orasJson(...attach, reference, 'sbom.json'));
  });

  test('push and attach return the digests that are served and discovered', async () => {
    const reference = `${entrepot.host}/team/artifact:1`;
    expect(await servedDigest(entrepot, 'team/artifact', '1')).toBe(subject);
    expect(await servedDigest(entrepot, 'team/artifact', String(sbom))).toBe(sbom);
    expect(await referrers('--plain-http', reference)).toEqual([sbom]);
    expect(await referrers('--plain-http', '--artifact-type', SBOM, reference)).toEqual([sbom]);
    expect(await referrers('--plain-http', '--artifact-type', 'application/x', reference)).toEqual([]);
  });

  test('pull writes the file that was pushed', async () => {
    const out = join(folder, 'pulled');
    await runHere('oras', 'pull', '--plain-http', '--output', out, `${entrepot.host}/team/artifact:1`);
    expect(await readFile(join(out, 'data.txt'), 'utf8')).toBe('data\n');
  });

  test('copy -r copies referrers, between repositories and through a layout', async () => {
    const first = `${entrepot.host}/team/artifact:1`;
    const [second, third] = ['second', 'third'].map(name => `${entrepot.host}/team/${name}:1`);
    await runHere('oras', 'copy', '-r', '--from-plain-http', '--to-plain-http', first, second ?? '');
    await runHere('oras', 'copy', '-r', '--from-plain-http', '--to-oci-layout', first, 'layout:1');
    expect(await referrers('--oci-layout', 'layout:1')).toEqual([sbom]);
    await runHere('oras', 'copy', '-r', '--from-oci-layout', '--to-plain-http', 'layout:1', third ?? '');
    for (const copy of ['second', 'third']) {
      expect(await servedDigest(entrepot, `team/${copy}`, '1')).toBe(subject);
      expect(await referrers('--plain-http', `${entrepot.host}/team/${copy}:1`)).toEqual([sbom]);
    }
  });

  test.skipIf(!hasPrograms(...REGISTRY_PROGRAMS))(
    'copy -r works from and to a registry without the referrers API',
    async () => {
      const registry = await DockerRegistry.start();
      const plain = ['--from-plain-http', '--to-plain-http'];
      const there = `${registry.host}/artifact:1`;
      const back = `${entrepot.host}/team/back:1`;
      await runHere('oras', 'copy', '-r', ...plain, `${entrepot.host}/team/artifact:1`, there);
      expect(await servedDigest(registry, 'artifact', '1')).toBe(subject);
      await runHere('oras', 'copy', '-r', ...plain, there, back);
      await registry.remove();
      expect(await servedDigest(entrepot, 'team/back', '1')).toBe(subject);
      expect(await referrers('--plain-http', back)).toEqual([sbom]);
    },
  );
});

describe.skipIf(!hasPrograms('cosign', ...IMAGE_PROGRAMS))('cosign', () => {
  beforeAll(async () => void (await runHere('cosign', 'generate-key-pair')));

  /** Where signatures are kept: under a tag made of the digest, or as referrers. */
  const MODES = {
    'a tag': { sign: [], verify: [] },
    'the referrers API': { sign: ['--registry-referrers-mode=oci-1-1'], verify: ['--experimental-oci11'] },
  };

  for (const [mode, flags] of Object.entries(MODES)) {
    test(`an image has no signature before it is signed, and a valid one afterwards, by ${mode}`, async () => {
      const repository = `${entrepot.host}/team/signed-by-${mode.replaceAll(' ', '-').toLowerCase()}`;
      const copy = ['copy', '--quiet', '--all', '--preserve-digests', '--dest-tls-verify=false'];
      await run('skopeo', [...copy, `oci:${await imageLayout()}:busybox`, `docker://${repository}:1`]);
      const image = `${repository}@${await imageDigest('busybox')}`;

      const verify = ['verify', '--key', 'cosign.pub', '--insecure-ignore-tlog', '--allow-http-registry'];
      const verified = () => tryRunHere('cosign', ...verify, ...flags.verify, image);
      expect((await verified()).stderr).toContain('no signatures found');
      const sign = ['sign', '--key', 'cosign.key', '--tlog-upload=false', '--allow-http-registry', '--yes'];
      await runHere('cosign', ...sign, ...flags.sign, image);
      const { code, stdout } = await verified();
      expect(code).toBe(0);
      expect(stdout).toContain(await imageDigest('busybox'));
    });
  }
});
