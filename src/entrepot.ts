#!/usr/bin/env -S node --max-semi-space-size=4
// The program, as `npm start`, `npx entrepot` and the image start it.
//
// --max-semi-space-size (MiB): V8 would let the garbage of many requests grow to three times 16 MiB before it looks at
// it. With 4, a manifest takes about a fifth more CPU time, and a server with 64 bodies open needs 30 MiB less. V8 takes
// it only on the command line, so `npm start` says it too.
//
// libuv reads the size of its thread pool once, when it is first used: file reads for many bodies at once need more than
// the four threads of the default. This file is also all that an older Node runs, so it has no syntax that one would not
// know.
import { Chunks } from './lib/chunks.ts';
import { installFault } from './lib/install-fault.ts';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
// `engines` in package.json says the same.
const isSupported = (major === 20 && minor >= 19) || (major === 22 && minor >= 14) || major > 22;

if (!isSupported) {
  fail(`it needs Node 20.19 or a later 20, or 22.14 or later; ${process.execPath} is ${process.version}`);
}
// SIGHUP never ends a server, not even while its modules load; `serve` adds the handler that reloads.
if (process.argv[2] === 'serve') process.on('SIGHUP', () => {});
if (process.env['UV_THREADPOOL_SIZE'] === undefined) process.env['UV_THREADPOOL_SIZE'] = '16';

try {
  new Chunks(import.meta.dirname).load('main.cjs');
} catch (error) {
  const fault = error instanceof Error ? installFault(error) : undefined;
  if (fault !== undefined) fail(fault);
  throw error;
}

function fail(reason: string): never {
  console.error(`entrepot: ${reason}`);
  process.exit(1);
}
