import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { createLogger } from './logger.ts';
import { loggable, redactText } from './redact.ts';

function recorder(format: 'json' | 'pretty' = 'json') {
  const lines: string[] = [];
  const output = { write: (text: string) => lines.push(text) };
  const { log } = createLogger({ level: 'info', format, output, isTerminal: false });
  return { log, lines, text: () => lines.join('') };
}

describe('the log', () => {
  it('is one JSON object per line, with the level by name and the time in ISO 8601', () => {
    const { log, lines } = recorder();
    log.child({ part: 'mirror' }).info({ bytes: 1 }, 'filled');
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? '')).toEqual({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      part: 'mirror',
      bytes: 1,
      msg: 'filled',
    });
  });

  it('has no stack of an error that says that the disk is full, nor of its causes', () => {
    const { log, text } = recorder();
    const cause = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    log.error({ err: new Error('the ingest failed', { cause }) }, 'not stored');
    expect(text()).toContain('"message":"ENOSPC: no space left on device, write"');
    expect(text()).not.toContain('stack');
    log.error({ err: new Error('another', { cause: new Error('of a bug') }) }, 'not stored');
    expect(text().match(/"stack"/g)).toHaveLength(2);
  });

  it('has no stack of an error that says that a file may not be used', () => {
    const { log, text } = recorder();
    const message = 'EACCES: permission denied, open ‘/blobs/fa’';
    log.error({ err: Object.assign(new Error(message), { code: 'EACCES' }) }, 'not read');
    expect(text()).toContain('permission denied');
    expect(text()).not.toContain('stack');
  });

  it('drops what is below its level', () => {
    const { log, text } = recorder();
    log.debug({}, 'detail');
    expect(text()).toBe('');
  });

  it('is one readable line on a terminal, too', () => {
    const { log, text } = recorder('pretty');
    const reason = 'up answers "no"\u001b[2J\u009b2J';
    log.child({ part: 'mirror' }).warn({ upstream: 'docker.io', bytes: 0, tls: {}, reason }, 'slow');
    expect(text()).toMatch(
      /^\[[\d:.]+\] WARN: slow part=mirror upstream=docker.io bytes=0 tls=\{\} reason=.*\n$/,
    );
    expect(text()).toContain('reason="up answers \\"no\\"\\u001b[2J\\u009b2J"');
  });

  it('shows an error on lines of its own on a terminal', () => {
    const { log, text } = recorder('pretty');
    log.error({ err: new TypeError('outer'), route: 'blob' }, 'bug');
    expect(text()).toMatch(/ERROR: bug route=blob\n\s+err: [^]*"message": "outer"[^]*at /);
  });

  it('shows an error with its causes', () => {
    const { log, lines } = recorder();
    log.error(
      { err: new TypeError('outer', { cause: Object.assign(new Error('inner'), { code: 'EPIPE' }) }) },
      'bug',
    );
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({
      err: {
        type: 'TypeError',
        message: 'outer',
        stack: expect.any(String),
        cause: { message: 'inner', code: 'EPIPE' },
      },
    });
  });

  it.each(['json', 'pretty'] as const)('contains no secret, however deep it was passed (%s)', format => {
    const { log, text } = recorder(format);
    const headers = { Authorization: 'Bearer s3cret', 'set-cookie': ['a=s3cret'], accept: '*/*' };
    log
      .child({ password: 's3cret' })
      .info({ request: { headers }, refreshToken: 's3cret' }, 'sent Basic czNjcmV0 to it');
    log.error(
      {
        err: new Error('GET https://u:s3cret@host/blob?X-Amz-Signature=s3cret&x=1', {
          cause: { token: 's3cret' },
        }),
        url: 'https://cdn.example/b?sig=s3cret&token=s3cret',
        bytes: Buffer.from('s3cret'),
      },
      'failed: Bearer s3cret',
    );
    expect(text()).not.toMatch(/s3cret|czNjcmV0/);
    expect(text()).toContain('cdn.example/b?sig=***&token=***');
  });

  it('survives values that cannot be written as JSON', () => {
    const { log, lines } = recorder();
    const loop: Record<string, unknown> = { big: 1n };
    loop['self'] = loop;
    log.info({ loop }, 'odd');
    expect(lines).toHaveLength(1);
  });

  it('has written its last line when the process ends, normally or by an exception', () => {
    const program = `
      import { createLogger } from ${JSON.stringify(new URL('logger.ts', import.meta.url).href)};
      const { log } = createLogger({ level: 'info', format: 'json' });
      log.info({}, 'first');
      log.info({}, 'last');
      throw new Error('broken');`;
    const { stdout, status } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', program],
      {
        encoding: 'utf8',
      },
    );
    expect(status).toBe(1);
    expect(stdout.trim().split('\n')).toEqual([
      expect.stringContaining('first'),
      expect.stringContaining('last'),
    ]);
  });

  it('leaves out what is undefined, and copies only what has something to hide', () => {
    const { log, lines } = recorder();
    log.info({ method: 'GET', reason: undefined, err: undefined }, 'response');
    expect(Object.keys(JSON.parse(lines[0] ?? ''))).toEqual(['level', 'time', 'method', 'msg']);
    const clean = { method: 'GET', bytes: 1, token: undefined };
    expect(loggable(clean)).toBe(clean);
    for (const secret of [{ token: 'abc' }, { url: 'https://u:p@host/' }, { nested: { password: 'abc' } }])
      expect(JSON.stringify(loggable({ ...clean, ...secret }))).toMatch(
        /^((?!abc|u:p).)*\*\*\*((?!abc|u:p).)*$/,
      );
  });

  it('leaves ordinary texts as they are', () => {
    const text = 'docker.io/library/nginx@sha256:abc?platform=linux/amd64 basically done';
    expect(redactText(text)).toBe(text);
  });
});
