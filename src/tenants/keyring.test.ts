import { expect, test } from 'vitest';
import type { DockerConfig } from './docker-config.ts';
import { Keyring } from './keyring.ts';

// The kubelet's rules are in test/vectors/keyring.json; here is what they leave open.

function configOf(...keys: string[]): DockerConfig {
  return new Map(keys.map(key => [key, { username: key, password: 'p', email: '' }]));
}

function usernames(keyring: Keyring<string>, image: string): string[] {
  return keyring.lookup(image).map(({ username }) => username);
}

test('spellings of one key in one config are tried in the order of the spellings', () => {
  const keys = ['https://reg.example/v2/', 'reg.example', 'http://reg.example'];
  const keyring = new Keyring([[{ source: 's', config: configOf(...keys) }]]);
  expect(usernames(keyring, 'reg.example/x')).toEqual(keys.toSorted());
});

test('exact hosts and globs keep their common order', () => {
  const config = configOf('*.example/team', 'reg.example', '*.example', 'reg.example/team', 'r*.example/t');
  const keyring = new Keyring([[{ source: 's', config }]]);
  expect(usernames(keyring, 'reg.example/team/app')).toEqual([
    'reg.example/team',
    'reg.example',
    'r*.example/t',
    '*.example/team',
    '*.example',
  ]);
});

test('an empty port counts as no port', () => {
  const keyring = new Keyring([[{ source: 's', config: configOf('reg.example:') }]]);
  expect(usernames(keyring, 'reg.example/x')).toEqual(['reg.example:']);
});

test('a part without a match does not hide the next', () => {
  const keyring = new Keyring([
    [{ source: 'pod', config: configOf('other.example') }],
    [],
    [{ source: 'plugin', config: configOf('reg.example') }],
  ]);
  expect(keyring.lookup('reg.example/x')).toMatchObject([{ source: 'plugin', key: 'reg.example' }]);
  expect(keyring.entries()).toHaveLength(2);
});
