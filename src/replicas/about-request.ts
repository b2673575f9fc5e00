import type { ServerResponse } from 'node:http';

/** What a replica says of itself to others. */
export interface ReplicaAbout {
  /** Its id, by which others know whether it is the one that they look for. */
  readonly id: string;
  /** Epoch ms. */
  readonly startedAtMs: number;
  /** The digests of what it downloads from upstreams: the first hundred. */
  readonly downloads: readonly string[];
}

export const ABOUT_PATH = '/about';
/** A hundred digests, and much to spare. */
export const MAX_ABOUT_BYTES = 64 * 1024;
/** More are hardly read by anybody. */
const MAX_DOWNLOADS = 100;

export function sendAbout(about: ReplicaAbout, res: ServerResponse): void {
  const few = { ...about, downloads: about.downloads.slice(0, MAX_DOWNLOADS) };
  res.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(few));
}

/** What the body of a response says. Throws if it is no JSON. */
export function parseAbout(bytes: Buffer): ReplicaAbout {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- whoever has the key of the cluster is another replica
  return JSON.parse(bytes.toString()) as ReplicaAbout;
}

export function tooLong(): Error {
  return new Error(`what a replica says of itself has more than ${MAX_ABOUT_BYTES} bytes`);
}
