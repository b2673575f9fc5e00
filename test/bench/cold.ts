import { TcpLink } from '../support/tcp-link.ts';
import { load } from './support/load.ts';
import { LOOP_DELAY, type LoopDelay, worstDelay } from './support/loop-delay.ts';
import type { PushedImage } from './support/push.ts';
import type { Subject } from './support/subjects.ts';
import { median, spread, table } from './support/table.ts';

/** What a cold pull is measured against. */
export interface ColdCase {
  readonly title: string;
  readonly nodes: number;
  /** What the upstream gives to everybody together, or over each connection, bytes/s. */
  readonly bytesPerSecond: number;
  readonly isPerConnection?: boolean;
  readonly rounds: number;
  /** Subjects with a new, empty store for each round; `undefined` starts nothing: nodes pull from the upstream itself. */
  readonly subjects: readonly { name: string; start?: (upstreamPort: number) => Promise<Subject> }[];
}

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** Several nodes pull one image that nobody holds, from an upstream behind a link of a bounded rate. */
export async function coldPull(upstreamPort: number, image: PushedImage, test: ColdCase): Promise<string> {
  const measured = new Map<
    string,
    {
      seconds: number[];
      ratio: number[];
      requests: number[];
      p50: number[];
      p99: number[];
      spread: number[];
      peak: number[];
      cpu: number[];
      delay: LoopDelay[];
    }
  >();
  const link = await TcpLink.open(upstreamPort, test.bytesPerSecond, { isShared: !test.isPerConnection });
  for (let round = 0; round < test.rounds; round++) {
    for (const { name, start } of test.subjects) {
      const subject = await start?.(link.port);
      await subject?.loop?.read();
      const before = subject?.cpuSeconds() ?? 0;
      link.bytes = 0;
      link.requests = 0;
      const result = await load({
        kind: 'nodes',
        port: subject?.port ?? link.port,
        base: `/v2/${image.repository}`,
        query: subject?.query ?? '',
        tag: image.tag,
        nodes: test.nodes,
        parallel: 3,
        digests: image.digests,
        sizes: image.sizes,
      });
      const values = measured.get(name) ?? {
        seconds: [],
        ratio: [],
        requests: [],
        p50: [],
        p99: [],
        spread: [],
        peak: [],
        cpu: [],
        delay: [],
      };
      measured.set(name, values);
      values.seconds.push(result.seconds);
      values.ratio.push(link.bytes / image.bytes);
      values.requests.push(link.requests);
      values.p50.push(result.firstByteP50Ms);
      values.p99.push(result.firstByteP99Ms);
      values.spread.push(result.spreadP99Ms);
      values.peak.push((subject?.peakRssBytes() ?? 0) / MIB);
      values.cpu.push(((subject?.cpuSeconds() ?? 0) - before) / (result.bytes / GIB));
      const delay = await subject?.loop?.read();
      if (delay !== undefined) values.delay.push(delay);
      await subject?.stop();
    }
  }
  await link.close();
  const idealSeconds = image.bytes / test.bytesPerSecond;
  const rows = [...measured].map(([name, values]) => [
    name,
    spread(values.seconds, 2),
    Number.isFinite(test.bytesPerSecond) ? `${(median(values.seconds) / idealSeconds).toFixed(2)} ×` : '-',
    median(values.ratio).toFixed(3),
    median(values.requests).toFixed(0),
    median(values.p50).toFixed(0),
    median(values.p99).toFixed(0),
    median(values.spread).toFixed(0),
    median(values.peak).toFixed(0),
    median(values.cpu).toFixed(2),
    worstDelay(values.delay),
  ]);
  const columns = [
    '',
    'wall s',
    'one copy on the link',
    'upstream ÷ image',
    'requests',
    'first byte p50 ms',
    'p99 ms',
    'behind the first p99 ms',
    'peak MiB',
    'CPU s/GiB served',
    LOOP_DELAY,
  ];
  return table(test.title, columns, rows);
}
