import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasPrograms } from '../../test/support/programs.ts';
import { makeTempFolder } from '../../test/support/temp-folder.ts';
import { EXIT } from '../cli/command.ts';
import { runProgram } from '../cli/program.ts';
import { CONFIG_FILE_VARIABLE } from './environment.ts';
import { loadConfig } from './load.ts';

const file = fileURLToPath(new URL('../../config/systemd/entrepot.service', import.meta.url));
const text = readFileSync(file, 'utf8');

/** `Section.Key`, with every value that it is given, as systemd.syntax(7) has it; a SyntaxError for what is no unit. */
function parseUnit(unit: string): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, string[]>();
  let section = '';
  for (const line of unit.split('\n')) {
    if (line === '' || /^[#;]/.test(line)) continue;
    const [, heading, key, value = ''] = /^(?:\[(\w+)\]|(\w+)=(.*))$/.exec(line) ?? [];
    if (heading !== undefined) section = heading;
    else if (key === undefined || section === '') throw new SyntaxError(line);
    else values.set(`${section}.${key}`, [...(values.get(`${section}.${key}`) ?? []), value]);
  }
  return values;
}

describe('config/systemd/entrepot.service', () => {
  const unit = parseUnit(text);
  const only = (key: string) => {
    const [value, ...more] = unit.get(key) ?? [];
    if (value === undefined || more.length > 0) throw new Error(`not one ${key}`);
    return value;
  };
  let folder: string;
  beforeAll(async () => void (folder = await makeTempFolder('unit')));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('runs existing commands', async () => {
    const commands = [only('Service.ExecStart'), ...(unit.get('Service.ExecReload') ?? [])]
      .map(line => line.split(' '))
      .filter(([program]) => program === '/usr/local/bin/entrepot');
    expect(commands.map(([, ...words]) => words)).toEqual([['serve'], ['config', 'check']]);
    for (const [, ...words] of commands) {
      const io = { out: () => {}, err: () => {} };
      expect(await runProgram([...words, '--help'], io)).toBe(EXIT.done);
    }
  });

  it('reloads the configuration of the server, and gives it time to stop', async () => {
    expect(unit.get('Service.ExecReload')?.at(-1)).toBe('/bin/kill -HUP $MAINPID');
    expect(only('Service.Environment')).toBe(`${CONFIG_FILE_VARIABLE}=/etc/entrepot/entrepot.yaml`);
    const { server } = await loadConfig({ env: {} });
    expect(Number(only('Service.TimeoutStopSec')) * 1000).toBeGreaterThan(server.shutdownTimeoutMs + 5_000);
    expect(Number(only('Service.RestartPreventExitStatus'))).toBe(EXIT.usage);
  });

  it('has the store where the service may write', () => {
    expect(only('Service.WorkingDirectory')).toBe(`/var/lib/${only('Service.StateDirectory')}`);
  });

  it.skipIf(!hasPrograms('systemd-analyze'))('is accepted by systemd (systemd-analyze)', () => {
    const copy = join(folder, 'entrepot.service');
    // What it starts is not installed here.
    writeFileSync(copy, text.replaceAll('/usr/local/bin/entrepot', '/bin/true'));
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', copy], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
  });
});
