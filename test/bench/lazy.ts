import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CHUNKED_IMAGE_PROGRAMS, ChunkedImage } from '../support/chunked-image.ts';
import { randomBlob } from '../support/content.ts';
import { type EstargzImage, estargzImage } from '../support/estargz.ts';
import { canPullLazily, LazyNode } from '../support/lazy-node.ts';
import { pullInChunks } from '../support/parallel-client.ts';
import { Podman, PODMAN_PROGRAMS } from '../support/podman.ts';
import { hasPrograms } from '../support/programs.ts';
import { putManifest, streamBlob } from '../support/push-client.ts';
import { TcpLink } from '../support/tcp-link.ts';
import { NotMeasured } from './support/sections.ts';
import { startDockerRegistry, startEntrepot, type Subject } from './support/subjects.ts';
import { median, spread, table } from './support/table.ts';

const MB = 1e6;
const BYTES_PER_SECOND = 12.5 * MB;
const SIZE = { files: 2_000, fileBytes: 79_000 };
/** Of the files of a layer, those that are read: the last one first. */
const READ_FILES = 20;

interface Contestant {
  readonly name: string;
  readonly start?: (upstreamPort: number) => Promise<Subject>;
  readonly rounds: number;
}

/** The peer fetches a layer two or three times, at the pace of the link: once says all. */
const SUBJECTS: readonly Contestant[] = [
  { name: 'from the origin', rounds: 3 },
  { name: 'entrepot', start: startEntrepot, rounds: 3 },
  { name: 'docker-registry', start: startDockerRegistry, rounds: 1 },
];

/** A subject with an empty store, or the origin itself, and what was sent on either side of it. */
interface Place {
  /** `host:port/` and what else goes before the name of an image. */
  readonly registry: string;
  readonly isCache: boolean;
  sent(): { readonly upstreamBytes: number; readonly clientBytes: number };
  close(): Promise<void>;
}

/** Calls `measure` for each subject, in turn. */
async function inTurn(
  upstreamPort: number,
  measure: (name: string, place: Place) => Promise<void>,
  subjects = SUBJECTS,
): Promise<void> {
  for (let round = 0; round < 3; round += 1) {
    for (const { name, start, rounds } of subjects) {
      if (round >= rounds) continue;
      const upstreamLink = await TcpLink.open(upstreamPort, BYTES_PER_SECOND);
      try {
        const place = await between(upstreamLink, await start?.(upstreamLink.port));
        try {
          await measure(name, place);
        } finally {
          await place.close();
        }
      } finally {
        await upstreamLink.close();
      }
    }
  }
}

async function between(upstreamLink: TcpLink, subject: Subject | undefined): Promise<Place> {
  if (subject === undefined) {
    return {
      registry: `127.0.0.1:${upstreamLink.port}/`,
      isCache: false,
      sent: () => ({ upstreamBytes: upstreamLink.bytes, clientBytes: upstreamLink.bytes }),
      close: async () => {},
    };
  }
  const clientLink = await TcpLink.open(subject.port, Number.POSITIVE_INFINITY);
  // What stands behind each path stands before the name in an image reference.
  const namespace = new URLSearchParams(subject.query).get('ns');
  return {
    registry: `127.0.0.1:${clientLink.port}/${namespace === null ? '' : `${namespace}/`}`,
    isCache: true,
    sent: () => ({ upstreamBytes: upstreamLink.bytes, clientBytes: clientLink.bytes }),
    close: async () => {
      await clientLink.close();
      await subject.stop();
    },
  };
}

/** Values by row, then by column. */
class Rows {
  readonly #rows = new Map<string, number[][]>();

  note(row: string, ...values: readonly number[]): void {
    const columns = this.#rows.get(row) ?? values.map(() => []);
    this.#rows.set(row, columns);
    values.forEach((value, at) => columns[at]?.push(value));
  }

  /** The first `seconds` columns with their extremes, the others in MB. */
  table(title: string, columns: readonly string[], seconds: number): string {
    const rows = [...this.#rows].map(([row, values]) => [
      row,
      ...values.map((column, at) => (at < seconds ? spread(column, 2) : (median(column) / MB).toFixed(2))),
    ]);
    return table(title, ['', ...columns], rows);
  }
}

/** containerd with Debian's stargz snapshotter, which fetches what is read. */
export async function lazyEstargz(upstreamPort: number): Promise<string> {
  if (!canPullLazily)
    throw new NotMeasured(
      'lazy eStargz pulls need a snapshotter whose path is in STARGZ_SNAPSHOTTER, containerd, ctr-remote and FUSE',
    );
  const image = await pushEstargz(upstreamPort, 'v1');
  const next = await pushEstargz(upstreamPort, 'v2');
  const rows = new Rows();
  await inTurn(upstreamPort, async (name, place) => {
    const pull = async (row: string, version: string, pulled: EstargzImage): Promise<void> => {
      const reference = `${place.registry}library/estargz:${version}`;
      const { seconds, ...sent } = await readLazily(pulled, reference, place);
      rows.note(row, ...seconds, sent.firstUpstreamBytes, sent.upstreamBytes, sent.clientBytes);
    };
    await pull(name, 'v1', image);
    if (!place.isCache) return;
    await pull(`${name}, second node`, 'v1', image);
    // By then, the process is no longer new.
    if (name === 'entrepot') await pull(`${name}, next image`, 'v2', next);
  });
  return rows.table(
    `Lazy pull of an eStargz layer of ${megabytes(image.layer.size)}, ${SIZE.files} files, upstream at 12.5 MB/s`,
    ['first file s', `${READ_FILES} files s`, 'upstream MB, first file', `${READ_FILES} files`, 'client MB'],
    2,
  );
}

/** Pushes an image of its own under this tag. */
async function pushEstargz(upstreamPort: number, tag: string): Promise<EstargzImage> {
  const image = estargzImage(SIZE.files, SIZE.fileBytes, `lazy ${tag}`);
  const origin = `http://127.0.0.1:${upstreamPort}`;
  for (const blob of [image.config, image.layer]) await streamBlob(origin, 'library/estargz', blob);
  await putManifest(origin, 'library/estargz', tag, image.manifest);
  return image;
}

async function readLazily(image: EstargzImage, reference: string, place: Place) {
  const node = await LazyNode.start();
  try {
    const before = place.sent();
    const startMs = performance.now();
    const root = await node.mount(reference);
    const times: number[] = [];
    let firstUpstreamBytes = 0;
    const names = image.names.filter((_, at) => at % (SIZE.files / READ_FILES) === 0).toReversed();
    for (const name of names) {
      const bytes = await readFile(join(root, name));
      times.push((performance.now() - startMs) / 1000);
      if (!bytes.equals(image.contentOf(name))) throw new Error(`${name} is not what it was`);
      if (times.length === 1) firstUpstreamBytes = place.sent().upstreamBytes - before.upstreamBytes;
    }
    const after = place.sent();
    return {
      seconds: [times[0] ?? Number.NaN, times.at(-1) ?? Number.NaN],
      firstUpstreamBytes,
      upstreamBytes: after.upstreamBytes - before.upstreamBytes,
      clientBytes: after.clientBytes - before.clientBytes,
    };
  } finally {
    await node.remove();
  }
}

/** podman that has a version of an image, and pulls the next one, of which one file in ten is another. */
export async function lazyChunked(upstreamPort: number): Promise<string> {
  if (!hasPrograms(...PODMAN_PROGRAMS, ...CHUNKED_IMAGE_PROGRAMS))
    throw new NotMeasured('partial pulls need podman and buildah');
  const origin = `127.0.0.1:${upstreamPort}/library/chunked`;
  const image = await ChunkedImage.push(origin, SIZE);
  const podman = await Podman.make('', 'overlay');
  const pull = (reference: string) => podman.run('pull', '--quiet', '--tls-verify=false', reference);
  const rows = new Rows();
  try {
    await pull(`${origin}:1`);
    await inTurn(upstreamPort, async (name, place) => {
      for (const row of place.isCache ? [name, `${name}, again`] : [name]) {
        const before = place.sent();
        const startMs = performance.now();
        const reference = `${place.registry}library/chunked:2`;
        await pull(reference);
        const seconds = (performance.now() - startMs) / 1000;
        const after = place.sent();
        rows.note(
          row,
          seconds,
          after.upstreamBytes - before.upstreamBytes,
          after.clientBytes - before.clientBytes,
        );
        await image.removePulled(podman, reference);
      }
    });
  } finally {
    await podman.remove();
    await image.remove();
  }
  return rows.table(
    `podman pulls the next version of a zstd:chunked layer, ${megabytes(image.changedBytes)} of ${megabytes(image.changedBytes * 10)} changed`,
    ['wall s', 'upstream MB', 'client MB'],
    1,
  );
}

/** One layer, in one stream and as containerd reads it from 2.1 on. */
export async function parallelPull(upstreamPort: number): Promise<string> {
  const layer = randomBlob(64 * 2 ** 20, 'parallel');
  await streamBlob(`http://127.0.0.1:${upstreamPort}`, 'library/parallel', layer);
  const rows = new Rows();
  // The peer answers 200 to a range of what it does not have.
  const subjects = SUBJECTS.filter(({ name }) => name !== 'docker-registry');
  for (const connections of [1, 4]) {
    const pull = async (name: string, place: Place) => {
      const [host, ...path] = place.registry.split('/');
      const url = `http://${host}/v2/${path.join('/')}library/parallel/blobs/${layer.digest}`;
      // One connection asks for everything at once.
      const chunkBytes = connections === 1 ? layer.size : 8 * 2 ** 20;
      const startMs = performance.now();
      const digest = await pullInChunks(url, { sizeBytes: layer.size, chunkBytes, connections });
      const seconds = (performance.now() - startMs) / 1000;
      if (digest !== layer.digest) throw new Error(`${name}: wrong bytes`);
      rows.note(`${name}, ${connections} at once`, seconds, place.sent().upstreamBytes);
    };
    await inTurn(upstreamPort, pull, subjects);
  }
  return rows.table(
    `A layer of ${megabytes(layer.size)} over several connections, chunks of 8 MiB`,
    ['wall s', 'upstream MB'],
    1,
  );
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / MB)} MB`;
}
