import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { run } from '../support/programs.ts';
import { pushImage } from './support/push.ts';
import { spread, table } from './support/table.ts';

const ROUNDS = 15;
const IMAGES = 5;

/** Milliseconds from the start of a process: until it ends, or is ready. */
interface Cost {
  readonly wallMs: number;
  /** User and system time of all its threads. */
  readonly cpuMs: number;
}

/** How long commands and the server take to start, beside Node without a program, alternating. */
export async function starts(): Promise<string> {
  const server = await Entrepot.start({ hosted: { prefixes: ['team'], anonymous: 'push' } });
  try {
    for (let at = 0; at < IMAGES; at += 1) await pushImage(server.url, `team/app-${at}`, 'v1', [10_000]);
    await server.stop();
    const config = ['--config', server.configFile];
    const subjects: readonly (readonly [name: string, start: () => Promise<Cost>])[] = [
      ['node -e 0', () => runToEnd('-e', '0')],
      ['entrepot --version', () => runToEnd(...STARTER, '--version')],
      [`entrepot images (${IMAGES} images)`, () => runToEnd(...STARTER, 'images', ...config)],
      ['entrepot serve, until it serves', () => runUntilServing(...STARTER, 'serve', ...config)],
    ];
    const costs = new Map<string, Cost[]>(subjects.map(([name]) => [name, []]));
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const [name, start] of subjects) costs.get(name)?.push(await start());
    }
    const rows = [...costs].map(([name, each]) => [
      name,
      spread(each.map(({ wallMs }) => wallMs)),
      spread(each.map(({ cpuMs }) => cpuMs)),
    ]);
    return table('Start', ['', 'ms', 'CPU ms'], rows);
  } finally {
    await server.remove();
  }
}

/** bash measures, since Node does not learn the CPU time of a child. */
const MEASURED = 'TIMEFORMAT="%R %U %S"; time "$@" > /dev/null';

async function runToEnd(...args: readonly string[]): Promise<Cost> {
  const script = `{ ${MEASURED}; } 2>&1`;
  const [wall = NaN, user = NaN, system = NaN] = (
    await run('bash', ['-c', script, 'bash', process.execPath, ...args])
  )
    .trim()
    .split(' ')
    .map(Number);
  return { wallMs: wall * 1000, cpuMs: (user + system) * 1000 };
}

async function runUntilServing(...args: readonly string[]): Promise<Cost> {
  const startedMs = performance.now();
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise(resolve => child.once('exit', resolve));
  let log = '';
  for await (const text of child.stdout.setEncoding('utf8')) {
    log += text;
    if (log.includes('"serving"')) break;
  }
  const wallMs = performance.now() - startedMs;
  if (!log.includes('"serving"')) throw new Error(`it does not serve:\n${log}`);
  const cpuMs = cpuMsOf(child.pid);
  child.kill();
  await ended;
  return { wallMs, cpuMs };
}

/** Of its threads, to the nanosecond (proc(5) counts that of a process in hundredths of a second). */
function cpuMsOf(pid: number | undefined): number {
  const tasks = `/proc/${pid}/task`;
  const nanoseconds = readdirSync(tasks).map(task =>
    Number(readFileSync(`${tasks}/${task}/schedstat`, 'utf8').split(' ')[0]),
  );
  return nanoseconds.reduce((sum, each) => sum + each, 0) / 1e6;
}
