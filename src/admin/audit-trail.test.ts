import { appendFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { createAudit } from '../ops/audit.ts';
import { AuditTrail } from './audit-trail.ts';

let folder: string;
let auditFile: string;

beforeEach(async () => {
  folder = await makeTempFolder('audit-trail');
  auditFile = join(folder, 'audit.log');
});

afterEach(() => removeFolder(folder));

const who = { name: 'ops', by: 'login', rights: 'full', remote: '192.0.2.1' } as const;

function lineOf(at: number, more: object = {}): string {
  const time = new Date(1_700_000_000_000 + at).toISOString();
  const fields = { level: 'info', time, requester: 'anonymous', remote: '127.0.0.1', action: 'pull' };
  return `${JSON.stringify({ ...fields, repository: `docker.io/app-${at}`, reference: 'v1', outcome: 'allowed', ...more })}\n`;
}

async function subjectsOf(trail: AuditTrail, limit: number): Promise<(string | null)[]> {
  const subjects: (string | null)[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next } = await trail.page({ limit, after });
    subjects.push(...entries.map(({ subject }) => subject));
    if (next === null) return subjects;
    after = next;
  }
}

describe('the end of the audit log', () => {
  it('is read from the file, page by page, while lines are added', async () => {
    const count = 20_000;
    await writeFile(auditFile, Array.from({ length: count }, (_, at) => lineOf(at)).join(''));
    const trail = new AuditTrail({ output: 'file', auditFile, audit: undefined });
    const first = await trail.page({ limit: 500 });
    expect(first.entries[0]).toMatchObject({ subject: `docker.io/app-${count - 1}:v1`, who: 'anonymous' });
    await appendFile(auditFile, lineOf(count));
    const second = await trail.page({ limit: 1, after: first.next ?? '' });
    expect(second.entries[0]?.subject).toBe(`docker.io/app-${count - 501}:v1`);
    const all = await subjectsOf(trail, 500);
    expect(all).toEqual(Array.from({ length: count + 1 }, (_, at) => `docker.io/app-${count - at}:v1`));
  });

  it('says who did what to what', async () => {
    const digest = `sha256:${'a'.repeat(64)}`;
    const lines = [
      lineOf(0, { tenant: 'team-a', reference: digest }),
      lineOf(1, { username: 'mallory', requester: undefined, outcome: 'refused', reason: 'DENIED: no' }),
      lineOf(2, { repository: undefined, reference: undefined, action: 'login' }),
      'not JSON\n',
      lineOf(3).slice(0, -1),
    ];
    await writeFile(auditFile, lines.join(''));
    const trail = new AuditTrail({ output: 'file', auditFile, audit: undefined });
    const { entries, next } = await trail.page({ limit: 10 });
    expect(entries).toMatchObject([
      { subject: null, action: 'login' },
      { who: 'mallory', outcome: 'refused', reason: 'DENIED: no' },
      { who: 'team-a', subject: `docker.io/app-0@${digest}` },
    ]);
    expect(next).toBeNull();
  });

  it('is empty if the file is, was moved away, or is no file', async () => {
    const trail = new AuditTrail({ output: 'file', auditFile, audit: undefined });
    expect(await trail.page({ limit: 10 })).toMatchObject({ entries: [], next: null });
    await writeFile(auditFile, '');
    expect(await trail.page({ limit: 10 })).toMatchObject({ entries: [], next: null });
    await writeFile(auditFile, Array.from({ length: 20 }, (_, at) => lineOf(at)).join(''));
    const { next } = await trail.page({ limit: 10 });
    await rename(auditFile, join(folder, 'old'));
    await writeFile(auditFile, lineOf(1));
    expect((await trail.page({ limit: 10, after: next ?? '' })).entries).toHaveLength(1);
    await rm(auditFile);
  });

  it('is searched in steps, so that nobody waits for all of a long log', async () => {
    const lines = Array.from({ length: 60_000 }, (_, at) => lineOf(at));
    lines[7] = lineOf(7, { admin: 'ops', action: 'admin pin' });
    await writeFile(auditFile, lines.join(''));
    const trail = new AuditTrail({ output: 'file', auditFile, audit: undefined });
    const steps: number[] = [];
    for (let after: string | undefined; ; ) {
      const { entries, next } = await trail.page({ limit: 50, after, q: 'admin ' });
      steps.push(entries.length);
      if (next === null) break;
      after = next;
    }
    expect(steps.length).toBeGreaterThan(2);
    expect(steps.reduce((sum, found) => sum + found, 0)).toBe(1);
    expect((await trail.page({ limit: 50, q: 'app-59999:' })).entries).toHaveLength(1);
  });

  it('has what was changed here, at once', async () => {
    const audit = createAudit({ output: 'file', auditFile });
    const trail = new AuditTrail({ output: 'file', auditFile, audit });
    trail.record({ who, action: 'pin', subject: 'docker.io/app:v1', outcome: 'allowed', reason: undefined });
    expect((await trail.page({ limit: 1 })).entries).toMatchObject([
      { who: 'ops', action: 'admin pin', subject: 'docker.io/app:v1', remote: '192.0.2.1' },
    ]);
  });

  it('is what was changed here if there is no file', async () => {
    const trail = new AuditTrail({ output: 'none', auditFile: undefined, audit: undefined });
    for (let at = 0; at < 1_500; at += 1) {
      trail.record({ who, action: 'pin', subject: String(at), outcome: 'allowed', reason: undefined });
    }
    expect(await trail.page({ limit: 1 })).toMatchObject({ covers: 'changes', output: 'none' });
    const all = await subjectsOf(trail, 300);
    expect(all).toEqual(Array.from({ length: 1_000 }, (_, at) => String(1_499 - at)));
    expect((await trail.page({ limit: 50, q: '1499' })).entries).toHaveLength(1);
  });
});
