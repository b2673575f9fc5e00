import { expect, it } from 'vitest';
import { CommandLog } from './command-log.ts';

function recorder() {
  const written = { text: '' };
  return { written, log: new CommandLog(text => void (written.text += text)) };
}

it('has warnings and errors as lines for people, and nothing else', () => {
  const { log, written } = recorder();
  log.debug();
  log.info();
  const child = log.child({ tenant: 'team-a' });
  child.warn({ reason: 'no such\u001b[2J file', source: undefined }, 'a Secret is missing');
  log.error(
    { err: new Error('EIO: i/o error'), paths: ['/a', '/b'], count: 2, of: { name: '\u009b2J' } },
    'it failed',
  );
  expect(written.text).toBe(
    'entrepot: warning: a Secret is missing: no such\\u001b[2J file (tenant: team-a)\n' +
      'entrepot: error: it failed: EIO: i/o error (paths: /a, /b; count: 2; of: {"name":"\\u009b2J"})\n',
  );
});

it('reveals no secret', () => {
  const { log, written } = recorder();
  log.warn({ password: 'hunter2', err: new Error('https://u:hunter2@up.example') }, 'Bearer hunter2hunter2');
  expect(written.text).not.toContain('hunter2');
});
