import { expect, test } from 'vitest';
import * as dockerConfig from './docker-config.ts';

// What is accepted and how it is read is in test/vectors/dockercfg-parse.json; here is what it does not say.

const blank = { username: '', password: '', email: '' };

test('several auths are merged, and null empties them', () => {
  const both = '{"auths":{"a":{"username":"1"}},"Auths":{"b":{}}}';
  expect([...dockerConfig.parseDockerConfigJson(both).keys()]).toEqual(['a', 'b']);
  const emptied = '{"auths":{"a":{}},"auths":null}';
  expect(dockerConfig.parseDockerConfigJson(emptied).size).toBe(0);
});

test('many auths are parsed in linear time', () => {
  const many = Array.from({ length: 40_000 }, (_, at) => `"auths":{"r${at}":{}}`).join();
  expect(dockerConfig.parseDockerConfigJson(`{${many}}`).size).toBe(40_000);
});

test('null is the zero value everywhere', () => {
  expect(dockerConfig.parseDockerConfigJson('{"auths":{"a":null},"HttpHeaders":null}')).toEqual(
    new Map([['a', blank]]),
  );
  expect(dockerConfig.parseDockerConfigEntry('{"username":"u","username":null}').username).toBe('u');
});

test('the long s of Unicode is an s in a member name, as in Go', () => {
  expect(dockerConfig.parseDockerConfigJson('{"auth\u017f":{"a":{"u\u017fername":"u"}}}')).toEqual(
    new Map([['a', { ...blank, username: 'u' }]]),
  );
});

test('a key named like a built-in member of objects is an ordinary key', () => {
  const config = dockerConfig.parseDockerConfigJson('{"auths":{"__proto__":{"password":"p"}}}');
  expect(config.get('__proto__')).toEqual({ ...blank, password: 'p' });
});

test('an auth has all of its padding or none', () => {
  for (const auth of ['dXNlcjpwdw==', 'dXNlcjpwdw']) {
    expect(dockerConfig.decodeAuth(auth)).toEqual({ username: 'user', password: 'pw' });
  }
  expect(() => dockerConfig.decodeAuth('dXNlcjpwdw=')).toThrow(dockerConfig.InvalidDockerConfig);
});

test('the type of a Secret decides which data key counts', () => {
  const data = new Map([
    ['.dockerconfigjson', '{"auths":{"new":{}}}'],
    ['.dockercfg', '{"old":{}}'],
  ]);
  const keysOf = (type: string) => [...(dockerConfig.parsePullSecret(type, data)?.keys() ?? ['ignored'])];
  expect(keysOf('kubernetes.io/dockerconfigjson')).toEqual(['new']);
  expect(keysOf('kubernetes.io/dockercfg')).toEqual(['old']);
  expect(keysOf('Opaque')).toEqual(['ignored']);
});

test('no error shows the content of the file', () => {
  const texts = ['{"auths":{"a":{"password":hunter2}}}', '{"auths":{"a":{"auth":"hunter2"}}}', '"hunter2"'];
  for (const text of texts) {
    expect(() => dockerConfig.parseDockerConfigJson(text)).toThrow(dockerConfig.InvalidDockerConfig);
    expect(() => dockerConfig.parseDockerConfigJson(text)).not.toThrow(/hunter2/);
  }
});
