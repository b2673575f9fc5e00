// A client that reads one blob over several connections, as containerd does from 2.1 on: each chunk is requested to the end
// of the blob (`bytes=N-`, the first one without a range), and its connection is closed when the chunk is there.
import { createHash } from 'node:crypto';
import { get, type IncomingMessage } from 'node:http';
import { many } from './client.ts';

export interface ParallelPull {
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  readonly connections: number;
}

/** The digest of what was read. */
export async function pullInChunks(url: string, pull: ParallelPull): Promise<string> {
  const chunks: Buffer[] = [];
  const queue = Array.from({ length: Math.ceil(pull.sizeBytes / pull.chunkBytes) }, (_, at) => at).values();
  await many(pull.connections, async () => {
    for (const at of queue) {
      const start = at * pull.chunkBytes;
      chunks[at] = await readChunk(url, start, Math.min(pull.chunkBytes, pull.sizeBytes - start));
    }
  });
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return `sha256:${hash.digest('hex')}`;
}

async function readChunk(url: string, start: number, bytes: number): Promise<Buffer> {
  const response = await open(url, start === 0 ? {} : { range: `bytes=${start}-` });
  const expected = start === 0 ? 200 : 206;
  if (response.statusCode !== expected) throw new Error(`status ${response.statusCode} from byte ${start}`);
  const pieces: Buffer[] = [];
  let missing = bytes;
  for await (const piece of response as AsyncIterable<Buffer>) {
    pieces.push(piece.subarray(0, missing));
    missing -= Math.min(missing, piece.length);
    // Leaving the loop destroys the connection.
    if (missing === 0) break;
  }
  return Buffer.concat(pieces);
}

function open(url: string, headers: Readonly<Record<string, string>>): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(url, { headers: { ...headers }, agent: false }, resolve).once('error', reject);
  });
}
