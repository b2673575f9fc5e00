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
/** More are hardly read by anybody. */
const MAX_DOWNLOADS = 100;

export function sendAbout(about: ReplicaAbout, res: ServerResponse): void {
  const few = { ...about, downloads: about.downloads.slice(0, MAX_DOWNLOADS) };
  res.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(few));
}
