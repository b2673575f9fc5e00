// The last step of the build: keeps what V8 compiles of the chunks in dist/ for `src/lib/chunks.ts`. That includes the
// functions that have run, so the program runs here as people start it. The code fits the Node and the V8 flags of this
// process; any other compiles for itself.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Script } from 'node:vm';
import type * as Program from './src/cli/program.ts';
import { Chunks } from './src/lib/chunks.ts';
import { writeCode } from './src/lib/code-cache.ts';

const DIST = join(import.meta.dirname, 'dist');

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
  const config = join(folder, 'config.yaml');
  const server = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' };
  writeFileSync(config, JSON.stringify({ server, storage: { path: join(folder, 'store') } }));
  const { runProgram }: typeof Program = chunks.load('program.cjs');
  const command = async (...argv: string[]) => {
    let text = '';
    const add = (more: string) => void (text += more);
    const code = await runProgram(argv, { out: add, err: add });
    if (code !== 0) throw new Error(text);
  };
  await command('--version');
  const serving = new Promise<void>(resolve => {
    // From then on it can be stopped.
    process.on('newListener', event => event === 'SIGTERM' && resolve());
  });
  const served = command('serve', '--config', config);
  await Promise.race([serving, served]);
  await command('images', '--config', config);
  process.emit('SIGTERM');
  await served;
}
