#!/usr/bin/env -S node --max-semi-space-size=4
// The program, as `npm start`, `npx entrepot` and the image start it.
//
// --max-semi-space-size (MiB): V8 would let the garbage of many requests grow to three times 16 MiB before it looks at
// it. With 4 it costs no measurable time, and a server with 64 bodies open needs 30 MiB less. V8 takes it only on the
// command line, so `npm start` says it too.
//
// libuv reads the size of its thread pool once, before the first ES module loads, so this starter is CommonJS: file
// reads for many bodies at once need more than the four threads of the default.
process.env['UV_THREADPOOL_SIZE'] ??= '16';
import('./main.ts').catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
