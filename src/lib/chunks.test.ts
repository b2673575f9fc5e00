import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Script } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { Chunks } from './chunks.ts';
import { writeCode } from './code-cache.ts';

let folder: string;

beforeEach(async () => {
  folder = await makeTempFolder('chunks');
});

afterEach(() => removeFolder(folder));

async function write(name: string, source: string): Promise<void> {
  await writeFile(join(folder, name), source);
}

/** As the build does. */
function compile(name: string): void {
  const compiled: (readonly [string, Buffer, Script])[] = [];
  new Chunks(folder, { onCompiled: (...each) => void compiled.push(each) }).load(name);
  for (const [each, source, script] of compiled) writeCode(folder, each, source, script.createCachedData());
}

/** Loads `name` in the way of a new process: what it exports, and the chunks whose code was compiled before. */
function load(name: string): {
  readonly exports: ReturnType<Chunks['load']>;
  readonly precompiled: readonly string[];
} {
  const precompiled: string[] = [];
  const onCompiled = (each: string, _: Buffer, script: Script) => {
    if (script.cachedDataRejected === false) precompiled.push(each);
  };
  return { exports: new Chunks(folder, { onCompiled }).load(name), precompiled };
}

/** The answer of the chunks below, and what was compiled for it. */
function ask(): { readonly answer: unknown; readonly compiled: readonly string[] } {
  const { exports, precompiled } = load('main.cjs');
  const compiled = ['main.cjs', 'part.cjs'].filter(name => !precompiled.includes(name));
  return { answer: exports.answer, compiled };
}

describe('chunks', () => {
  it('require each other and what Node has, and are evaluated once', async () => {
    await write(
      'main.cjs',
      `exports.values = [require('./part.cjs'), require('./part.cjs'), require('node:path').sep]`,
    );
    await write('part.cjs', `module.exports = { file: __filename }`);
    const { values } = load('main.cjs').exports;
    expect(values).toEqual([{ file: join(folder, 'part.cjs') }, { file: join(folder, 'part.cjs') }, '/']);
    expect(values[0]).toBe(values[1]);
  });

  it('may require each other in a circle', async () => {
    await write('main.cjs', `exports.name = () => 'main'; exports.greet = require('./part.cjs').greet`);
    await write(
      'part.cjs',
      `const main = require('./main.cjs'); exports.greet = () => 'hello ' + main.name()`,
    );
    expect(load('main.cjs').exports.greet()).toBe('hello main');
  });

  it('that throw are evaluated again, and their stack has the line in their file', async () => {
    await write(
      'main.cjs',
      `"use strict";\nglobalThis.tries = (globalThis.tries ?? 0) + 1;\nthrow new Error('no')`,
    );
    const chunks = new Chunks(folder);
    expect(() => chunks.load('main.cjs')).toThrow(
      expect.objectContaining({ stack: expect.stringContaining(`${join(folder, 'main.cjs')}:3:`) }),
    );
    expect(() => chunks.load('main.cjs')).toThrow('no');
    expect(Reflect.get(globalThis, 'tries')).toBe(2);
  });

  it('that are missing are reported as Node does, but not those that cannot be read', async () => {
    expect(() => load('main.cjs')).toThrow(expect.objectContaining({ code: 'MODULE_NOT_FOUND' }));
    await mkdir(join(folder, 'main.cjs'));
    expect(() => load('main.cjs')).toThrow(expect.objectContaining({ code: 'EISDIR' }));
  });
});

describe('compiled code', () => {
  beforeEach(async () => {
    await write('main.cjs', `"use strict"; exports.answer = require('./part.cjs').answer() + 1`);
    await write('part.cjs', `"use strict"; exports.answer = () => 41`);
    compile('main.cjs');
  });

  it('is used if it fits', () => {
    expect(ask()).toEqual({ answer: 42, compiled: [] });
  });

  it('is not needed', async () => {
    await removeFolder(join(folder, 'code-cache'));
    expect(ask()).toEqual({ answer: 42, compiled: ['main.cjs', 'part.cjs'] });
    await writeFile(join(folder, 'code-cache'), 'not a folder');
    expect(ask()).toEqual({ answer: 42, compiled: ['main.cjs', 'part.cjs'] });
  });

  it('of another source is not used, not even of one as long', async () => {
    await write('part.cjs', `"use strict"; exports.answer = () => 99`);
    expect(ask()).toEqual({ answer: 100, compiled: ['part.cjs'] });
  });

  it('of another Node is not used', async () => {
    const own = process.version;
    Object.defineProperty(process, 'version', { value: 'v20.19.0' });
    try {
      compile('main.cjs');
    } finally {
      Object.defineProperty(process, 'version', { value: own });
    }
    expect(ask()).toEqual({ answer: 42, compiled: ['main.cjs', 'part.cjs'] });
  });

  it('that is damaged anywhere, or cut off, is not used', async () => {
    const file = join(folder, 'code-cache', 'part.cjs');
    const intact = await readFile(file);
    // The checksum, and what follows its padding.
    for (const at of [...intact.keys()].filter(each => each < 4 || (each >= 8 && each % 7 === 1))) {
      const damaged = Buffer.from(intact);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      await writeFile(file, damaged);
      expect(ask()).toEqual({ answer: 42, compiled: ['part.cjs'] });
    }
    for (const length of [intact.length - 1, 100, 9, 8, 7, 4, 3, 0]) {
      await writeFile(file, intact.subarray(0, length));
      expect(ask()).toEqual({ answer: 42, compiled: ['part.cjs'] });
    }
  });

  it('is written by nobody but the build', async () => {
    await removeFolder(join(folder, 'code-cache'));
    await mkdir(join(folder, 'code-cache'));
    load('main.cjs');
    expect(await readdir(join(folder, 'code-cache'))).toEqual([]);
  });
});
