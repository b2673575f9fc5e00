import { readFile, stat } from 'node:fs/promises';
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
  it('appends one JSON object a line to a file of its own, which nobody else may read', async () => {
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

  it('says at once when its file cannot be written', () => {
    expect(() => createAudit({ output: 'file', auditFile: join(folder, 'none', 'x') })).toThrow(/ENOENT/);
  });

  it('is not there unless it is wanted', () => {
    expect(createAudit({ output: 'none' })).toBeUndefined();
  });
});
