import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Credentials } from './credentials.ts';
import type { CredentialsSettings } from './settings.ts';

const MINUTE_MS = 60_000;

let folder: string;
let server: Server;
let url: string;
/** The requests, each with its body. */
let asked: { readonly line: string; readonly headers: IncomingMessage['headers']; readonly body: string }[];
let answer: (line: string) => string | undefined;
let opened: Credentials[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-keys-'));
  asked = [];
  opened = [];
  answer = () => undefined;
  server = createServer((request, response) => {
    void serve(request, response);
  });
  await new Promise<void>(resolve => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  url = `http://127.0.0.1:${address.port}`;
});

afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(opened.map(credentials => credentials.close()));
  await new Promise(resolve => {
    server.close(resolve);
  });
  await rm(folder, { recursive: true });
});

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const line = `${request.method} ${request.url}`;
  asked.push({ line, headers: request.headers, body: Buffer.concat(chunks).toString() });
  const text = answer(line);
  response.writeHead(text === undefined ? 404 : 200).end(text ?? '<Error><Code>Nothing</Code></Error>');
}

function open(settings: CredentialsSettings): Credentials {
  const credentials = new Credentials(settings, 'eu-west-1');
  opened.push(credentials);
  return credentials;
}

async function file(text: string): Promise<string> {
  const path = join(folder, 'credentials');
  await writeFile(path, text);
  return path;
}

const stsAnswer = (until: string) =>
  '<R><Credentials><AccessKeyId>id</AccessKeyId><SecretAccessKey>s&amp;</SecretAccessKey>' +
  `<SessionToken>t</SessionToken><Expiration>${until}</Expiration></Credentials></R>`;

const inMs = (ms: number) => new Date(Date.now() + ms).toISOString();

test('keys from the environment need both variables', async () => {
  const keys = { accessKeyId: 'id', secretAccessKey: 'secret' };
  expect(await open({ from: 'env', keys }).current()).toEqual(keys);
  await expect(open({ from: 'env' }).current()).rejects.toThrow(
    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
  );
});

test('a file has the keys of its default profile, or of its only one', async () => {
  const some = '[other]\naws_access_key_id=x\naws_secret_access_key=y\n';
  const path = await file(
    `# keys\n${some}[default]\n  aws_access_key_id = id\naws_secret_access_key = a=b/c+d\naws_session_token = t\nregion = x\n`,
  );
  const read = async () => open({ from: 'file', file: path }).current();
  expect(await read()).toEqual({ accessKeyId: 'id', secretAccessKey: 'a=b/c+d', sessionToken: 't' });
  await file(some);
  expect(await read()).toEqual({ accessKeyId: 'x', secretAccessKey: 'y' });
  await file('[default]\naws_access_key_id = id\n');
  await expect(read()).rejects.toThrow('no credentials for S3 (storage.s3.credentials: file)');
});

test('a file that cannot be read is named, with what it must contain, and is not a fault of S3', async () => {
  const path = join(folder, 'absent');
  const failure = await open({ from: 'file', file: path })
    .current()
    .catch((error: unknown) => error);
  expect(failure).toMatchObject({ isUnsigned: true });
  expect(String(failure)).toContain(
    `${path} (storage.s3.credentialsFile) cannot be read: it does not exist (ENOENT). The user of the server must be able`,
  );
});

test('an endless device in place of a file of keys is refused', async () => {
  const reading = open({ from: 'file', file: '/dev/zero' }).current();
  await expect(reading).rejects.toThrow('(storage.s3.credentialsFile) is not a file');
});

test('a file is read again once its keys were refused', async () => {
  const path = await file('aws_access_key_id = id\naws_secret_access_key = old\n');
  const credentials = open({ from: 'file', file: path });
  const old = await credentials.current();
  await file('aws_access_key_id = id\naws_secret_access_key = new\n');
  expect(await credentials.current()).toBe(old);
  credentials.refused(old);
  expect((await credentials.current()).secretAccessKey).toBe('new');
});

test('a file is read again after a minute, as it may have been replaced', async () => {
  const path = await file('aws_access_key_id = id\naws_secret_access_key = old\n');
  const credentials = open({ from: 'file', file: path });
  const old = await credentials.current();
  await file('aws_access_key_id = id\naws_secret_access_key = new\n');
  const now = Date.now();
  const clock = vi.spyOn(Date, 'now').mockReturnValue(now + MINUTE_MS / 2);
  expect(await credentials.current()).toBe(old);
  clock.mockReturnValue(now + MINUTE_MS);
  expect((await credentials.current()).secretAccessKey).toBe('new');
});

test('a web identity is exchanged for the keys of its role, once for all who ask', async () => {
  const tokenFile = await file('the token\n');
  answer = () => stsAnswer(inMs(60 * MINUTE_MS));
  const credentials = open({ from: 'webIdentity', role: 'arn:role', tokenFile, stsUrl: url });
  const all = await Promise.all([credentials.current(), credentials.current()]);
  expect(all[0]).toEqual({ accessKeyId: 'id', secretAccessKey: 's&', sessionToken: 't' });
  await credentials.current();
  expect(asked).toHaveLength(1);
  expect(Object.fromEntries(new URLSearchParams(asked[0]?.body))).toMatchObject({
    Action: 'AssumeRoleWithWebIdentity',
    RoleArn: 'arn:role',
    WebIdentityToken: 'the token',
  });
});

test('keys that are about to expire are renewed, and stay in use while that fails', async () => {
  const role = {
    Code: 'Success',
    AccessKeyId: 'id',
    SecretAccessKey: 's',
    Token: 't',
    Expiration: inMs(MINUTE_MS),
  };
  answer = line => {
    if (line === 'PUT /latest/api/token') return 'session';
    return line.endsWith('/security-credentials/') ? 'my-role\n' : JSON.stringify(role);
  };
  const credentials = open({ from: 'instance', metadataUrl: url });
  const first = await credentials.current();
  expect(first).toEqual({ accessKeyId: 'id', secretAccessKey: 's', sessionToken: 't' });
  expect(asked.map(({ line }) => line)).toEqual([
    'PUT /latest/api/token',
    'GET /latest/meta-data/iam/security-credentials/',
    'GET /latest/meta-data/iam/security-credentials/my-role',
  ]);
  expect(asked[1]?.headers['x-aws-ec2-metadata-token']).toBe('session');
  answer = () => undefined;
  const now = Date.now();
  const clock = vi.spyOn(Date, 'now').mockReturnValue(now + MINUTE_MS / 2);
  // Not each request asks again, which may take seconds.
  for (let request = 0; request < 3; request++) expect(await credentials.current()).toBe(first);
  expect(asked).toHaveLength(4);
  // Only S3 knows for sure when they have ended.
  clock.mockReturnValue(now + 2 * MINUTE_MS);
  expect(await credentials.current()).toBe(first);
  credentials.refused(first);
  await expect(credentials.current()).rejects.toThrow('storage.s3.credentials: instance): 127.0.0.1');
});

test('a clock that is hours fast does not have keys loaded for each request', async () => {
  answer = () => stsAnswer(inMs(-120 * MINUTE_MS));
  const tokenFile = await file('the token\n');
  const credentials = open({ from: 'webIdentity', role: 'arn:role', tokenFile, stsUrl: url });
  for (let request = 0; request < 3; request++) await credentials.current();
  expect(asked).toHaveLength(1);
});
