import { execFileSync } from 'node:child_process';
import { constants, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { createAudit } from './audit.ts';

let folder: string;
beforeEach(async () => {
  folder = await makeTempFolder('audit');
});
afterEach(() => removeFolder(folder));

describe('the audit log', () => {
  it('appends one JSON object per line to its own file, which nobody else may read', async () => {
    const auditFile = join(folder, 'audit.jsonl');
    for (const action of ['pull', 'push']) {
      const audit = createAudit({ output: 'file', auditFile });
      audit?.record({ action, tenant: 'team-a', credentialId: 'abc', password: 'hunter2' });
      audit?.flush();
    }
    const lines = (await readFile(auditFile, 'utf8')).trim().split('\n');
    expect(lines.map((line): unknown => JSON.parse(line))).toEqual(
      ['pull', 'push'].map(action =>
        expect.objectContaining({
          action,
          tenant: 'team-a',
          credentialId: 'abc',
          password: '***',
          msg: 'audit',
        }),
      ),
    );
    expect((await stat(auditFile)).mode & 0o777).toBe(0o600);
  });

  it('fails at once if its file cannot be written', () => {
    expect(() => createAudit({ output: 'file', auditFile: join(folder, 'none', 'x') })).toThrow(/ENOENT/);
  });

  it('waits for no reader of a named pipe', async () => {
    const [auditFile, moved] = [join(folder, 'audit.jsonl'), join(folder, 'audit.1')];
    const audit = createAudit({ output: 'file', auditFile });
    await rename(auditFile, moved);
    execFileSync('mkfifo', [auditFile]);
    expect(() => createAudit({ output: 'file', auditFile })).toThrow(/ENXIO/);
    expect(() => audit?.reopen()).toThrow(/ENXIO/);
    audit?.record({ action: 'after' });
    audit?.flush();
    expect(await readFile(moved, 'utf8')).toContain('after');
    const reader = await open(auditFile, constants.O_RDONLY | constants.O_NONBLOCK);
    audit?.reopen();
    audit?.record({ action: 'later' });
    audit?.flush();
    expect((await reader.read()).buffer.toString()).toContain('later');
    await reader.close();
  });

  it('continues in a new file after its own was moved, and in the old one if no new one can be opened', async () => {
    const [auditFile, moved] = [join(folder, 'audit.jsonl'), join(folder, 'audit.1')];
    const audit = createAudit({ output: 'file', auditFile });
    audit?.record({ action: 'before' });
    await rename(auditFile, moved);
    audit?.reopen();
    audit?.record({ action: 'after' });
    audit?.flush();
    expect(await readFile(moved, 'utf8')).toContain('before');
    expect(await readFile(auditFile, 'utf8')).toMatch(/^[^\n]*after[^\n]*\n$/);
    await rm(auditFile);
    await mkdir(auditFile);
    expect(() => audit?.reopen()).toThrow(/EISDIR/);
    audit?.record({ action: 'later' });
    expect(() => audit?.flush()).not.toThrow();
  });

  it('does not exist unless configured', () => {
    expect(createAudit({ output: 'none' })).toBeUndefined();
  });
});
