import { describe, expect, it } from 'vitest';
import { judgeRealm } from './realm.ts';

const judge = (realm: string, endpoint: string, ...realms: string[]) => {
  const judged = judgeRealm(realm, { endpoint: new URL(endpoint), realms });
  return judged instanceof URL ? judged.href : undefined;
};

describe('a realm is trusted', () => {
  it.each([
    ['https://registry.example/token', 'https://registry.example'],
    ['https://REGISTRY.example:443/token?x=1', 'https://registry.example'],
    ['https://registry.example:5000/token', 'https://registry.example:5000'],
    ['https://auth.docker.io/token', 'https://registry-1.docker.io', 'auth.docker.io'],
    ['https://auth.example:8443/token', 'https://registry.example', 'auth.example:8443'],
    ['http://registry.example/token', 'http://registry.example'],
    ['https://auth.example/token', 'http://registry.example', 'auth.example'],
  ])('%s of %s (%s)', (realm, endpoint, ...realms) => {
    expect(judge(realm, endpoint, ...realms)).toBeDefined();
  });
});

describe('a realm is not trusted', () => {
  it.each([
    ['https://evil.example/token', 'https://registry.example'],
    ['https://evil.registry.example/token', 'https://registry.example'],
    ['https://registry.example.evil.example/token', 'https://registry.example'],
    ['https://registry.example@evil.example/token', 'https://registry.example'],
    ['https://user:secret@registry.example/token', 'https://registry.example'],
    ['http://registry.example/token', 'https://registry.example'],
    ['https://registry.example:8443/token', 'https://registry.example'],
    ['https://registry.example/token', 'https://registry.example:5000'],
    ['https://auth.example:8443/token', 'https://registry.example', 'auth.example'],
    ['https://127.0.0.1/token', 'https://registry.example'],
    ['ftp://registry.example/token', 'http://registry.example'],
    ['file:///etc/passwd', 'http://registry.example'],
    ['/token', 'https://registry.example'],
    ['', 'https://registry.example'],
  ])('%s of %s (%s)', (realm, endpoint, ...realms) => {
    expect(judge(realm, endpoint, ...realms)).toBeUndefined();
  });
});
