import { describe, expect, it } from 'vitest';
import { parseBlock, proxyFor } from './proxy.ts';

const settings = { http: 'http://proxy:3128', https: 'http://proxy:3129' };
const proxied = (url: string, no?: string) => proxyFor({ ...settings, no }, new URL(url));

describe('proxyFor', () => {
  it('chooses by scheme, and none if none is set', () => {
    expect(proxied('http://a.example')).toBe('http://proxy:3128');
    expect(proxied('https://a.example')).toBe('http://proxy:3129');
    expect(proxyFor({}, new URL('https://a.example'))).toBeUndefined();
    expect(proxyFor({ https: '' }, new URL('https://a.example'))).toBeUndefined();
  });

  it.each([
    ['*', 'https://a.example'],
    ['a.example', 'https://a.example'],
    ['A.EXAMPLE', 'https://a.example'],
    ['.example', 'https://a.example'],
    ['*.example', 'https://a.example'],
    ['example', 'https://a.example'],
    ['x, a.example:443', 'https://a.example'],
    ['a.example:5000', 'https://a.example:5000'],
    ['10.0.0.0/8', 'https://10.1.2.3'],
    ['10.1.2.3', 'https://10.1.2.3'],
    ['fd00::/8', 'https://[fd00::1]'],
    ['', 'http://localhost:5000'],
    ['', 'http://127.0.0.1:5000'],
    ['', 'http://[::1]:5000'],
  ])('with NO_PROXY=%s reaches %s directly', (no, url) => {
    expect(proxied(url, no)).toBeUndefined();
  });

  it.each([
    ['ample', 'https://a.example'],
    ['b.example', 'https://a.example'],
    ['a.example:80', 'https://a.example'],
    ['10.0.0.0/8', 'https://11.0.0.1'],
    ['10.0.0.0/8', 'https://a.example'],
    ['1.2.3', 'https://1.2.3.4'],
  ])('with NO_PROXY=%s does not reach %s directly', (no, url) => {
    expect(proxied(url, no)).toBeDefined();
  });
});

describe('parseBlock', () => {
  it.each(['', 'ten', '10.0.0.0/33', '10.0.0.0/', '10.0.0.0/-1', '::/129', '10.0.0/8'])(
    'refuses %s',
    text => {
      expect(parseBlock(text)).toBeUndefined();
    },
  );
});
