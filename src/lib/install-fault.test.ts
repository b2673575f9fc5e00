import { expect, it } from 'vitest';
import { installFault } from './install-fault.ts';

it('a driver for another Node is reported in one sentence, with both versions and the remedy', () => {
  const error = Object.assign(
    new Error(
      "The module '/app/node_modules/better-sqlite3/build/Release/better_sqlite3.node'\nwas compiled against a " +
        'different Node.js version using\nNODE_MODULE_VERSION 115. This version of Node.js requires\n' +
        'NODE_MODULE_VERSION 127. Please try re-compiling or re-installing\nthe module.',
    ),
    { code: 'ERR_DLOPEN_FAILED' },
  );
  const fault = installFault(error);
  expect(fault).toMatch(/NODE_MODULE_VERSION 115 instead of 127; run npm ci/);
  expect(fault).toContain(process.version);
  expect(fault).not.toContain('\n');
});

it('a driver that cannot be loaded for another reason is reported with that, and a missing one as missing', () => {
  const linked = Object.assign(new Error('/x.node: version `GLIBC_2.38` not found\nmore'), {
    code: 'ERR_DLOPEN_FAILED',
  });
  expect(installFault(linked)).toMatch(/GLIBC_2\.38` not found; run/);
  expect(installFault(new Error('Could not locate the bindings file. Tried:\n → a\n → b'))).toMatch(
    /not built.*run/,
  );
});

it('a missing package or file is reported with the remedy', () => {
  const imported = Object.assign(new Error("Cannot find package 'koa' imported from /app/src/x.ts\nmore"), {
    code: 'ERR_MODULE_NOT_FOUND',
  });
  expect(installFault(imported)).toMatch(/^it is not installed completely: run npm ci .*'koa'[^\n]*$/);
  const required = Object.assign(new Error("Cannot find module 'koa'\nRequire stack:\n- /app/dist/x.cjs"), {
    code: 'MODULE_NOT_FOUND',
  });
  expect(installFault(required)).toMatch(/^it is not installed completely: run npm ci .*'koa'[^\n]*$/);
});

it('other errors are not explained', () => {
  expect(installFault(new Error('boom'))).toBeUndefined();
});
