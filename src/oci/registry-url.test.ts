import { describe, expect, it } from 'vitest';
import { parseRegistryUrl } from './registry-url.ts';

describe('the URL of a registry', () => {
  it.each([
    ['https://registry.example', 'https://registry.example', 'https://registry.example/v2', '', ''],
    ['https://registry.example/', 'https://registry.example', 'https://registry.example/v2', '', ''],
    ['https://registry.example/v2', 'https://registry.example', 'https://registry.example/v2', '', ''],
    ['https://registry.example/v2/', 'https://registry.example', 'https://registry.example/v2', '', ''],
    ['https://h.example/v2/proxy/', 'https://h.example/v2/proxy', 'https://h.example/v2/proxy', '', 'proxy/'],
    ['http://h:8080/v2/a/b', 'http://h:8080/v2/a/b', 'http://h:8080/v2/a/b', '', 'a/b/'],
    ['https://h/v2/docker.io', 'https://h/v2/docker.io', 'https://h/v2/docker.io', '', 'docker.io/'],
    ['https://h/v2/reg:5000', 'https://h/v2/reg:5000', 'https://h/v2/reg:5000', '', 'reg:5000/'],
    ['https://h/api/Docker/v2/', 'https://h/api/Docker/v2', 'https://h/api/Docker/v2', '/api/Docker', ''],
    ['https://h/r/v2/a/v2/b', 'https://h/r/v2/a/v2/b', 'https://h/r/v2/a/v2/b', '/r', 'a/v2/b/'],
    ['https://H.example:443/v2/a', 'https://h.example/v2/a', 'https://h.example/v2/a', '', 'a/'],
  ])('%s', (written, text, api, root, prefix) => {
    const { host } = new URL(text);
    expect(parseRegistryUrl(written)).toEqual({ text, api, host, root, prefix });
    expect(parseRegistryUrl(text).text).toBe(text);
  });

  it.each([
    ['without /v2', 'https://harbor.example/proxy-hub'],
    ['with /v2 as a part of a word', 'https://h.example/v2x/a'],
    ['with a part that begins no name', 'https://h.example/v2/Proxy'],
    ['with an empty part', 'https://h.example/v2//a'],
    ['with a port behind the first part', 'https://h.example/v2/a/b:1'],
    ['with escapes', 'https://h.example/v2/a%2fb'],
    ['with another root', 'https://h.example/a b/v2'],
    ['with a query', 'https://h.example/v2/a?b'],
    ['with a user name', 'https://u@h.example/v2/a'],
    ['with a scheme of another kind', 'ftp://h.example/v2/a'],
    ['that leaves its path', 'https://h.example/v2/../a'],
    ['with a text that is none', 'harbor.example/v2/a'],
  ])('is refused %s', (_, text) => {
    expect(() => parseRegistryUrl(text)).toThrow(Error);
  });
});
