// entrepot pull --watch as the process that it is: its schedule, its patience with what fails, and its end.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { type Daemon, until } from '../support/programs.ts';

const UPSTREAM = 'up.example';
/** A minute is the shortest time between two rounds. */
const ROUND_TIMEOUT_MS = 180_000;

const version = (seed: string) => imageOf([randomBlob(100_000, seed)]);

let upstream: FakeUpstream;
let entrepot: Entrepot;
let watch: Daemon | undefined;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('good', version('good'), 'latest');
});

afterEach(async () => {
  await watch?.kill();
  await entrepot.remove();
  await upstream.stop();
});

async function start(schedule: string, ...images: string[]): Promise<Daemon> {
  entrepot = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    prepull: { schedule },
  });
  watch = await entrepot.begin('pull', '--watch', ...images.map(name => `${UPSTREAM}/${name}`));
  return watch;
}

const asked = (repository: string) => upstream.count('manifest', { repository });
const isHeld = async (image: string) => (await entrepot.command('check', `${UPSTREAM}/${image}`)).code === 0;

describe('entrepot pull --watch', () => {
  it('retries failures after 10 s, leaves the rest alone meanwhile, and ends with 0 by SIGTERM', async () => {
    const watching = await start('0 0 1 1 *', 'good', 'late');
    await until('the first round', 60_000, async () => /failed images are retried/.test(watching.logs()));
    expect(watching.logs()).toMatch(/✗ up\.example\/late: /);
    expect(await isHeld('good')).toBe(true);
    const [good, late] = [asked('good'), asked('late')];
    upstream.add('late', version('late'), 'latest');
    await until('the second attempt', 60_000, async () => asked('late') > late);
    const [failedMs = 0, retriedMs = 0] = upstream.requests
      .filter(({ repository }) => repository === 'late')
      .slice(late - 1)
      .map(({ atMs }) => atMs);
    expect(retriedMs - failedMs).toBeGreaterThan(8_000);
    await until('the image', 60_000, async () => isHeld('late'));
    expect(asked('good')).toBe(good);
    await watching.stop();
    expect(watching.exitCode).toBe(0);
    expect(watching.logs()).toMatch(/stopped\n$/);
  });

  it('pulls despite a missing file, and what it names once it exists', async () => {
    entrepot = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      prepull: { schedule: '0 0 1 1 *' },
    });
    const list = join(entrepot.folder, 'list.txt');
    upstream.add('listed', version('listed'), 'latest');
    watch = await entrepot.begin('pull', '--watch', `${UPSTREAM}/good`, '--from', list);
    const watching = watch;
    await until('the first round', 60_000, async () => /failed images are retried/.test(watching.logs()));
    expect(watching.logs()).toMatch(/--from: .*list\.txt cannot be read: it does not exist/);
    expect(await isHeld('good')).toBe(true);
    const good = asked('good');
    await writeFile(list, `${UPSTREAM}/listed\n`);
    await until('the image', 60_000, async () => isHeld('listed'));
    expect(asked('good')).toBe(good);
  });

  it('pulls everything again at the time of its schedule, and ends with 0 by Ctrl-C', {
    timeout: ROUND_TIMEOUT_MS + 60_000,
  }, async () => {
    const watching = await start('* * * * *', 'good');
    await until('the first round', 60_000, async () => /all images again at/.test(watching.logs()));
    const moved = version('moved');
    upstream.add('good', moved, 'latest');
    const reference = `${UPSTREAM}/good@${moved.manifest.digest}`;
    expect((await entrepot.command('check', reference)).code).toBe(1);
    await until('the next round', ROUND_TIMEOUT_MS, async () =>
      watching.logs().includes(moved.manifest.digest),
    );
    expect((await entrepot.command('check', reference)).code).toBe(0);
    process.kill(watching.pid, 'SIGINT');
    await until('the end', 30_000, async () => !watching.isRunning);
    expect(watching.exitCode).toBe(0);
  });
});
