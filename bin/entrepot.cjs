#!/usr/bin/env node
'use strict';
// libuv reads the size of its thread pool once, before the first ES module loads, so this starter is CommonJS:
// file reads for many bodies at once need more than the four threads of the default.
process.env.UV_THREADPOOL_SIZE ??= '16';
import('../dist/main.js').catch(error => {
  if (error && error.code === 'ERR_MODULE_NOT_FOUND' && /dist.main\.js/.test(String(error.message))) {
    console.error('entrepot: not built yet: run "npm run build" first');
  } else {
    console.error(error);
  }
  process.exit(1);
});
