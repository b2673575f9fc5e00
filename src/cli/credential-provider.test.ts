import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { devNull } from 'node:os';
import { text as textOf } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { parseYaml } from '../lib/yaml.ts';
import { decodeResponse, encodeRequest, parseProviderConfig } from '../tenants/credential-provider.ts';
import { answerCredentialRequest, parseCredentialRequest } from './credential-provider.ts';
import { CommandError } from './command.ts';
import { runProgram } from './program.ts';

const V1 = 'credentialprovider.kubelet.k8s.io/v1';
const NOW_MS = Date.UTC(2026, 0, 1);

function tokenEndingIn(seconds: number): string {
  const claims = Buffer.from(JSON.stringify({ exp: NOW_MS / 1000 + seconds })).toString('base64url');
  return `eyJhbGciOiJSUzI1NiJ9.${claims}.c2ln`;
}

function requestOf(members: object): string {
  return JSON.stringify({
    kind: 'CredentialProviderRequest',
    apiVersion: V1,
    image: 'docker.io/library/nginx',
    ...members,
  });
}

const examples = fileURLToPath(new URL('../../config/examples/credential-provider/', import.meta.url));
const read = (name: string): JsonObject => {
  const { value } = parseYaml(readFileSync(examples + name, 'utf8'));
  return isJsonObject(value) ? value : {};
};
const providersIn = ({ providers }: JsonObject): readonly JsonObject[] =>
  Array.isArray(providers) ? providers.filter(isJsonObject) : [];

const attributes = (name: string) => providersIn(read(name))[0]?.['tokenAttributes'];

const hosts = async (...args: string[]) => {
  let out = '';
  // Whatever server runs on this machine, its configuration is not meant.
  const code = await runProgram(['hosts', ...args, '--config', devNull], {
    out: text => void (out += text),
    err: () => {},
  });
  return { code, out };
};

describe('a request of the kubelet', () => {
  it("is answered with the pod's token as the password, for the image's registry, until shortly before it expires", () => {
    const token = tokenEndingIn(600);
    const request = parseCredentialRequest(
      requestOf({ serviceAccountToken: token, serviceAccountAnnotations: {} }),
    );
    const answer = decodeResponse(JSON.stringify(answerCredentialRequest(request, undefined, NOW_MS)));
    expect(answer).toEqual({
      apiVersion: V1,
      cacheKeyType: 'Registry',
      cacheMs: 540_000,
      auth: new Map([['docker.io', { username: 'serviceaccount', password: token }]]),
    });
  });

  it('with a token that has nearly expired gets a response that is not cached', () => {
    const request = parseCredentialRequest(requestOf({ serviceAccountToken: tokenEndingIn(30) }));
    expect(answerCredentialRequest(request, undefined, NOW_MS)).toMatchObject({ cacheDuration: '0s' });
  });

  it("without a token is answered with the node's credential, for as long as the kubelet is configured to cache it", () => {
    const request = parseCredentialRequest(encodeRequest(V1, 'registry.example:5000/app'));
    const answer = answerCredentialRequest(request, { username: 'node', password: 'p' }, NOW_MS);
    expect(decodeResponse(JSON.stringify(answer))).toMatchObject({
      cacheMs: undefined,
      auth: new Map([['registry.example:5000', { username: 'node', password: 'p' }]]),
    });
    expect(() => answerCredentialRequest(request, undefined, NOW_MS)).toThrow(CommandError);
  });

  it.each([
    '',
    '{}',
    'x',
    requestOf({ kind: 'Other' }),
    requestOf({ apiVersion: 'v9' }),
    requestOf({ image: '' }),
  ])('that is none is refused: %s', text => expect(() => parseCredentialRequest(text)).toThrow(CommandError));
});

describe('entrepot credential-provider', () => {
  it('communicates through its standard streams, as the kubelet runs it', async () => {
    const main = fileURLToPath(new URL('../main.ts', import.meta.url));
    const args = [
      '--import',
      'tsx',
      main,
      'credential-provider',
      '--username',
      'node',
      '--password-env',
      'SECRET',
    ];
    const child = spawn(process.execPath, args, { env: { ...process.env, SECRET: 'of the node' } });
    child.stdin.end(encodeRequest(V1, 'docker.io/library/nginx'));
    const [out, [code]] = await Promise.all([textOf(child.stdout), once(child, 'exit')]);
    expect(code).toBe(0);
    expect(decodeResponse(out).auth.get('docker.io')).toEqual({ username: 'node', password: 'of the node' });
  }, 60_000);
});

describe('config/examples/credential-provider', () => {
  it.each(['kubelet-1.33.yaml', 'kubelet-1.34.yaml'])('%s is accepted by the kubelet', name => {
    const document = read(name);
    // Only a kubelet has the tokens of pods; everything else is checked as ours.
    const providers = providersIn(document).map(
      ({ tokenAttributes: _tokenAttributes, ...provider }) => provider,
    );
    expect(parseProviderConfig({ ...document, providers })).toMatchObject([
      { name: 'entrepot-credential-provider' },
    ]);
  });

  it('sets cacheType for kubelets that require it, and not for those that do not know it', () => {
    const common = { serviceAccountTokenAudience: 'entrepot.example:30500', requireServiceAccount: true };
    expect(attributes('kubelet-1.33.yaml')).toEqual(common);
    expect(attributes('kubelet-1.34.yaml')).toEqual({ ...common, cacheType: 'Token' });
  });
});

describe('entrepot hosts --credential-provider', () => {
  it('makes Entrepot the only server in the file, so that the token is sent nowhere else', async () => {
    const server = ['--server', 'https://e.example', '--upstream', 'docker.io', '--credential-provider'];
    const { out } = await hosts('containerd', ...server);
    expect([...out.matchAll(/https:\/\/[^"]*/g)].map(([url]) => url)).toEqual([
      'https://e.example',
      'https://e.example',
    ]);
    expect((await hosts('docker', ...server)).code).toBe(2);
  });
});
