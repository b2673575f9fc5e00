import { Entrepot } from '../support/entrepot.ts';
import { HAS_POSTGRES, inConfig, Postgres } from '../support/postgres.ts';
import { load } from './support/load.ts';
import { type PushedImage, pushImage } from './support/push.ts';
import { NotMeasured } from './support/sections.ts';
import { median, spread, table } from './support/table.ts';

const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
const CONNECTIONS = [1, 16, 64] as const;

interface Subject {
  readonly name: string;
  readonly entrepot: Entrepot;
  readonly image: PushedImage;
}

/** Warm manifests with the index in the folder and in PostgreSQL, alternating, which share the cores with the load. */
export async function indexes(rounds = 5, seconds = 4): Promise<string> {
  if (!HAS_POSTGRES) throw new NotMeasured('needs PostgreSQL');
  const postgres = await Postgres.start({ syncs: true });
  const subjects: Subject[] = [];
  try {
    subjects.push(await start('folder', {}));
    subjects.push(await start('PostgreSQL', { index: { postgres: inConfig(postgres.settings()) } }));
    const rows: string[][] = [];
    for (const connections of CONNECTIONS) {
      const figures = subjects.map(() => ({
        rate: [] as number[],
        cpu: [] as number[],
        database: [] as number[],
      }));
      for (let round = 0; round < rounds; round += 1) {
        for (const [at, { entrepot, image }] of subjects.entries()) {
          const before = [entrepot.cpuSeconds(), postgres.cpuSeconds()] as const;
          const { requests, seconds: took } = await load({
            kind: 'rate',
            port: Number(new URL(entrepot.url).port),
            path: `/v2/${image.repository}/manifests/${image.tag}`,
            headers: ACCEPT,
            connections,
            seconds,
            expectBytes: image.manifestBytes,
          });
          figures[at]?.rate.push(requests / took);
          figures[at]?.cpu.push(((entrepot.cpuSeconds() - before[0]) / requests) * 1e6);
          figures[at]?.database.push(((postgres.cpuSeconds() - before[1]) / requests) * 1e6);
        }
      }
      const base = median(figures[0]?.rate ?? []);
      for (const [at, { rate, cpu, database }] of figures.entries()) {
        rows.push([
          `${connections} connection${connections > 1 ? 's' : ''}, ${subjects[at]?.name}`,
          spread(rate),
          spread(cpu),
          spread(database, 1),
          `${(median(rate) / base).toFixed(2)} ×`,
        ]);
      }
    }
    return table(
      'Warm manifest by tag, by where the index is',
      ['', 'requests/s', 'CPU µs/request', 'of the database', 'folder'],
      rows,
    );
  } finally {
    for (const { entrepot } of subjects) await entrepot.remove();
    await postgres.remove();
  }
}

async function start(name: string, config: object): Promise<Subject> {
  const entrepot = await Entrepot.start({ hosted: { prefixes: ['bench'], anonymous: 'push' }, ...config });
  return { name, entrepot, image: await pushImage(entrepot.url, 'bench/app', 'v1', [1_000]) };
}
