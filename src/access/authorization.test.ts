import { describe, expect, it } from 'vitest';
import { MAX_AUTHORIZATION_LENGTH, parseAuthorization } from './authorization.ts';

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe('an Authorization header', () => {
  it.each([
    ['Basic', base64('user:pass'), ['user', 'pass']],
    ['basic', base64('user:p:a:s'), ['user', 'p:a:s']],
    ['BASIC', base64(':'), ['', '']],
    ['Basic', base64('größe:schlüssel'), ['größe', 'schlüssel']],
  ])('%s %s', (scheme, encoded, [username, password]) => {
    expect(parseAuthorization(`${scheme} ${encoded}`)).toEqual({ scheme: 'basic', username, password });
  });

  it('with Bearer has a token', () => {
    expect(parseAuthorization('Bearer a.b-c_d~e+f/g==')).toEqual({
      scheme: 'bearer',
      token: 'a.b-c_d~e+f/g==',
    });
  });

  it.each([
    undefined,
    '',
    'Basic',
    'Basic !!!',
    `Basic ${base64('no colon')}`,
    `Basic ${base64('a:b')} more`,
    'Bearer',
    'Bearer two words',
    'Digest username="x"',
    `Basic ${base64(`u:${'x'.repeat(MAX_AUTHORIZATION_LENGTH)}`)}`,
  ])('proves nothing when it is %j', header => {
    expect(parseAuthorization(header)).toBeUndefined();
  });
});
