// The last step of the build: keeps what V8 compiles of the chunks in dist/ for `src/lib/chunks.ts`. That includes the
// functions that have run, so the program runs here as people start it, and an image is pulled through it. The code fits
// the Node and the V8 flags of this process; any other compiles for itself.
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type { Script } from 'node:vm';
import type * as Program from './src/cli/program.ts';
import { Chunks } from './src/lib/chunks.ts';
import { writeCode } from './src/lib/code-cache.ts';
import { SampleImage } from './sample-image.ts';

const DIST = join(import.meta.dirname, 'dist');
const UPSTREAM = 'upstream.example';
/** A start takes less than a second. */
const CONNECT_AGAIN_MS = 20;

const compiled = new Map<string, { readonly source: Buffer; readonly script: Script }>();
const chunks = new Chunks(DIST, {
  onCompiled: (name, source, script) => void compiled.set(name, { source, script }),
});
const temporary = mkdtempSync(join(tmpdir(), 'entrepot-build-'));
try {
  await run(temporary);
  for (const name of process.argv.slice(2)) if (!compiled.has(name)) chunks.compile(name);
} catch (error) {
  console.error('build: the program could not be compiled beforehand, so it will start slower:', error);
}
rmSync(temporary, { recursive: true });
for (const [name, { source, script }] of compiled) writeCode(DIST, name, source, script.createCachedData());
process.exit();

/** Runs the program on a store in `folder`. */
async function run(folder: string): Promise<void> {
  const image = new SampleImage();
  const upstream = await listening(image.serve());
  const config = join(folder, 'config.yaml');
  const port = await freePort();
  const server = { listen: `127.0.0.1:${port}`, opsListen: '127.0.0.1:0' };
  const upstreams = { [UPSTREAM]: { url: `http://127.0.0.1:${portOf(upstream)}` } };
  writeFileSync(config, JSON.stringify({ server, upstreams, storage: { path: join(folder, 'store') } }));
  const { runProgram }: typeof Program = chunks.load('program.cjs');
  const command = async (...argv: string[]) => {
    let text = '';
    const add = (more: string) => void (text += more);
    const code = await runProgram(argv, { out: add, err: add });
    if (code !== 0) throw new Error(text);
  };
  await command('--version');
  const served = command('serve', '--config', config);
  await Promise.race([accepting(port), served]);
  await image.pull(`http://127.0.0.1:${port}/v2/${UPSTREAM}/app`);
  await command('images', '--config', config);
  process.emit('SIGTERM');
  await served;
  upstream.close();
}

/** Resolves when connections to the port are accepted. */
async function accepting(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  const isAccepted = await once(socket, 'connect').catch(() => undefined);
  socket.destroy();
  if (isAccepted !== undefined) return;
  await setTimeout(CONNECT_AGAIN_MS);
  await accepting(port);
}

async function freePort(): Promise<number> {
  const server = await listening(createServer());
  const port = portOf(server);
  await new Promise(resolve => server.close(resolve));
  return port;
}

async function listening(server: Server): Promise<Server> {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server;
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('it does not listen on a port');
  return address.port;
}
