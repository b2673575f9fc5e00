import { describe, expect, it } from 'vitest';
import { parseChallenges } from './challenge.ts';

const plain = (header: string | readonly string[] | undefined) =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

describe('parseChallenges', () => {
  it.each<[string | readonly string[] | undefined, unknown]>([
    [undefined, []],
    ['', []],
    [' , ,', []],
    [
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull"',
      [
        [
          'bearer',
          {
            realm: 'https://auth.docker.io/token',
            service: 'registry.docker.io',
            scope: 'repository:library/nginx:pull',
          },
        ],
      ],
    ],
    ['bEaReR REALM=https, Service = "s"', [['bearer', { realm: 'https', service: 's' }]]],
    [
      'Bearer realm="r",scope="repository:a:pull,push repository:b:pull"',
      [['bearer', { realm: 'r', scope: 'repository:a:pull,push repository:b:pull' }]],
    ],
    ['Basic realm="a \\"quoted\\" \\\\ name"', [['basic', { realm: 'a "quoted" \\ name' }]]],
    [
      'Basic realm="Registry, Realm", charset="UTF-8"',
      [['basic', { realm: 'Registry, Realm', charset: 'UTF-8' }]],
    ],
    [
      'Basic realm="x", Bearer realm="y",service=z',
      [
        ['basic', { realm: 'x' }],
        ['bearer', { realm: 'y', service: 'z' }],
      ],
    ],
    [
      ['Negotiate', 'Bearer realm="y"', 'Basic realm="x"'],
      [
        ['negotiate', {}],
        ['bearer', { realm: 'y' }],
        ['basic', { realm: 'x' }],
      ],
    ],
    [
      'Negotiate YWJj/+==, Basic realm="x"',
      [
        ['negotiate', {}],
        ['basic', { realm: 'x' }],
      ],
    ],
    [
      'Negotiate, Basic realm="x"',
      [
        ['negotiate', {}],
        ['basic', { realm: 'x' }],
      ],
    ],
    ['NTLM', [['ntlm', {}]]],
    ['Basic', [['basic', {}]]],
    ['Bearer realm="y" service="no comma"', [['bearer', { realm: 'y', service: 'no comma' }]]],
    ['Bearer realm=""', [['bearer', { realm: '' }]]],
    ['Bearer realm="first",realm="second"', [['bearer', { realm: 'first' }]]],
    ['Bearer realm="y",error="invalid_token",', [['bearer', { realm: 'y', error: 'invalid_token' }]]],
    ['Bearer realm="unterminated', [['bearer', {}]]],
    ['realm="no scheme"', []],
    ['Bearer realm="y", =x', [['bearer', { realm: 'y' }]]],
    [`Bearer realm="${'x'.repeat(10_000)}"`, []],
  ])('reads %j', (header, expected) => {
    expect(plain(header)).toEqual(expected);
  });

  it('is fast even for malicious input', () => {
    for (const header of [
      '"'.repeat(8_000),
      `Bearer realm="${'\\'.repeat(8_000)}`,
      `${'a'.repeat(4_000)} ${'='.repeat(4_000)}`,
      'a,'.repeat(4_000),
    ]) {
      expect(parseChallenges(header).length).toBeLessThanOrEqual(4_000);
    }
  });
});
