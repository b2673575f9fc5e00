import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Chance, SEED } from '../../test/support/chance.ts';
import { silentLog } from '../lib/log.ts';
import type { Grant, MetadataStore, WithGrants } from './metadata-store.ts';
import { MAKING, obey, type Order, RAISED, type Reply, shuffledKinds } from './pull-memory.fixture.ts';
import { PullMemory } from './pull-memory.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';

const REPOSITORY = { upstream: 'docker.io', name: 'library/nginx' };

interface Answer extends WithGrants {
  readonly text: string;
}

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

describe('a PullMemory', () => {
  let nowMs = 0;
  const open = (maxBytes = 1_000_000) =>
    new PullMemory<string, Answer>({ maxBytes, maxAgeMs: 60_000, nowMs: () => nowMs });

  test('knows what it was told at this version of the index, and nothing at another', () => {
    const memory = open();
    memory.turnTo(1);
    keep(memory, 'v1');
    memory.turnTo(1);
    expect(memory.answer(REPOSITORY, 'v1', {})?.text).toBe('v1!');
    expect(memory.content(REPOSITORY, 'v1')).toBe('v1');
    memory.turnTo(2);
    expect(memory.content(REPOSITORY, 'v1')).toBeUndefined();
    expect(memory.bytes).toBe(0);
    memory.turnTo(1);
    expect(memory.content(REPOSITORY, 'v1')).toBeUndefined();
  });

  test('forgets what is old although the index has not changed', () => {
    const memory = open();
    memory.turnTo(1);
    keep(memory, 'v1');
    nowMs += 59_999;
    memory.turnTo(1);
    expect(memory.content(REPOSITORY, 'v1')).toBe('v1');
    nowMs += 1;
    memory.turnTo(1);
    expect(memory.content(REPOSITORY, 'v1')).toBeUndefined();
  });

  test('answers equal questions only', () => {
    const memory = open();
    memory.turnTo(1);
    keep(memory, 'v1', 10, { credentialIds: ['alice'], grantees: [''] });
    expect(memory.answer(REPOSITORY, 'v1', { credentialIds: ['alice'], grantees: [''] })?.text).toBe('v1!');
    for (const query of [
      {},
      { credentialIds: ['alice'] },
      { grantees: [''] },
      { credentialIds: ['bob'], grantees: [''] },
      { credentialIds: ['alice'], grantees: ['bob'] },
      { grantees: ['alice', ''] },
      { credentialIds: ['alice', ''] },
      { credentialIds: ['alice'], grantees: ['', ''] },
    ])
      expect(memory.answer(REPOSITORY, 'v1', query)).toBeUndefined();
    expect(memory.answer({ upstream: '', name: REPOSITORY.name }, 'v1', {})).toBeUndefined();
  });

  test('stays within its limit by forgetting the oldest, and never remembers what is larger', () => {
    const memory = open(100_000);
    memory.turnTo(1);
    for (let at = 0; at < 10; at += 1) keep(memory, `v${at}`, 30_000);
    expect(memory.bytes).toBeLessThanOrEqual(100_000);
    expect(memory.content(REPOSITORY, 'v9')).toBe('v9');
    expect(memory.content(REPOSITORY, 'v0')).toBeUndefined();
    keep(memory, 'large', 100_000);
    expect(memory.content(REPOSITORY, 'large')).toBeUndefined();
    for (let at = 0; at < 1000; at += 1) keep(memory, 'v9', 30_000, { credentialIds: [`${at}`] });
    expect(memory.bytes).toBeLessThanOrEqual(100_000);
  });

  test.each([1, 10, 60])('takes no more memory than it counts, with %i Grants in an answer', credentials => {
    const memory = open(100_000_000);
    memory.turnTo(1);
    const before = heapBytes();
    for (let at = 0; at < 10_000 / credentials; at += 1) {
      const credentialIds = Array.from({ length: credentials }, (_, id) => idOf(at, id));
      // As an index reads them: strings and numbers of their own.
      const grants = credentialIds.map((_, id) => ({ credentialId: idOf(at, id), verifiedAtMs: Date.now() }));
      keep(memory, 'v1', 0, { credentialIds, grantees: ['', `tenant:${at}`] }, grants);
    }
    expect(heapBytes() - before).toBeLessThan(memory.bytes * 1.1);
    expect(memory.content(REPOSITORY, 'v1')).toBe('v1');
  });
});

function keep(
  memory: PullMemory<string, Answer>,
  reference: string,
  contentBytes = 10,
  query = {},
  grants: readonly Grant[] = [],
): void {
  const answer = { text: `${reference}!`, grants };
  memory.keep(REPOSITORY, reference, query, { content: reference, contentBytes, answer });
}

/** As long as the hash that a credential is known by. */
function idOf(asker: number, credential: number): string {
  return Buffer.from(`${asker} ${credential}`.padStart(64, '0')).toString('latin1');
}

function heapBytes(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

describe('several processes on one index', () => {
  const PROGRAM = fileURLToPath(new URL('pull-memory-process.fixture.ts', import.meta.url));
  let folder: string;
  let path: string;
  let index: MetadataStore;
  let children: ChildProcess[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'entrepot-memory-'));
    path = join(folder, 'index.db');
    index = await openSqliteMetadataStore(path, { log: silentLog });
    children = [0, 1].map(() => fork(PROGRAM, [path], { execArgv: ['--import', 'tsx'] }));
    await Promise.all(children.map(replyOf));
  });

  afterEach(async () => {
    const ended = children.map(child => once(child, 'exit'));
    children.forEach(child => child.disconnect());
    await Promise.all(ended);
    await index.close();
    await rm(folder, { recursive: true });
  });

  test('after a write of any kind, by any process, no process answers what the index would not', async () => {
    const chance = new Chance(SEED);
    const obeying = [
      (order: Order) => obey(index, path, order),
      ...children.map(child => async (order: Order) => {
        const reply = replyOf(child);
        child.send(order);
        return reply;
      }),
    ];
    const remembered = obeying.map(() => 0);
    const compareAll = async (after: string) => {
      const replies = await Promise.all(obeying.map(ask => ask({ compare: true })));
      for (const [at, reply] of replies.entries()) {
        const { wrong, remembered: more } = 'wrong' in reply ? reply : NOTHING;
        expect(wrong, `seed ${SEED}: answered by ${at} after ${after}`).toEqual([]);
        remembered[at] = (remembered[at] ?? 0) + more;
      }
    };
    // Three times, since one may find nothing to change.
    const write = async (name: string, who: number) => {
      for (let at = 0; at < 3; at += 1) await obeying[who]?.({ write: name, seed: chance.below(2 ** 31) });
      await compareAll(`${name} by ${who}`);
    };
    for (let round = 0; round < 2; round += 1) {
      for (const kind of shuffledKinds(chance)) {
        await write(chance.pick(MAKING), chance.below(obeying.length));
        // In the first round by this process, in the second by another.
        await write(kind, round === 0 ? 0 : 1 + chance.below(children.length));
      }
    }
    for (const count of remembered) expect(count, `seed ${SEED}`).toBeGreaterThan(500);
  });

  test('no answer is older than what was acknowledged before the question', async () => {
    const { repository, tag } = RAISED;
    const told = { acknowledged: 0, isDone: false };
    const [writer] = children;
    writer?.on('message', (reply: Reply) => {
      if ('raised' in reply) told.acknowledged = reply.raised;
      else told.isDone = true;
    });
    let remembered = 0;
    let late = 0;
    let last: unknown;
    const seen = new Set<number>();
    // On a busy machine only one of the two may run for long.
    while (late === 0 && (seen.size < 10 || remembered < 10)) {
      told.isDone = false;
      writer?.send({ raiseFrom: told.acknowledged + 1 });
      while (!told.isDone) {
        const atLeast = told.acknowledged;
        const answer = await index.readForPull(repository, tag);
        const raised = answer.tag?.checkedAtMs ?? 0;
        if (raised < atLeast) late += 1;
        if (answer === last) remembered += 1;
        seen.add(raised);
        last = answer;
        await nextTurn();
      }
    }
    expect(late).toBe(0);
    expect((await index.readForPull(repository, tag)).tag?.checkedAtMs).toBe(told.acknowledged);
  });
});

const NOTHING = { wrong: ['nothing was compared'], remembered: 0 };

function replyOf(child: ChildProcess): Promise<Reply> {
  return new Promise(resolve => {
    child.once('message', (reply: Reply) => resolve(reply));
  });
}
