import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Script } from 'node:vm';
import { readCode } from './code-cache.ts';
import { errorCode } from './error-code.ts';

export interface ChunksOptions {
  /** Called with each chunk that is compiled, before it is evaluated. */
  readonly onCompiled?: (name: string, source: Buffer, script: Script) => void;
}

/** As `require` returns. */
type Exports = ReturnType<NodeJS.Require>;

type Evaluate = (
  exports: Exports,
  require: NodeJS.Require,
  module: { exports: Exports },
  path: string,
) => void;

/**
 * The files of a bundle: CommonJS modules in one folder, which require each other as `./name`. They are loaded as Node
 * would load them, but with the code that the build has compiled; without that, they are compiled as usual.
 */
export class Chunks {
  readonly #folder: string;
  readonly #onCompiled: ChunksOptions['onCompiled'];
  readonly #require: NodeJS.Require;
  readonly #modules = new Map<string, { exports: Exports }>();

  /** `folder`: an absolute path. */
  constructor(folder: string, { onCompiled }: ChunksOptions = {}) {
    this.#folder = folder;
    this.#onCompiled = onCompiled;
    const ofNode = createRequire(join(folder, 'chunk'));
    const require = (id: string): Exports => (id.startsWith('./') ? this.load(id.slice(2)) : ofNode(id));
    this.#require = Object.assign(require, ofNode);
  }

  /** The exports of a chunk, which is evaluated if it was not yet. */
  load(name: string): Exports {
    const known = this.#modules.get(name);
    if (known !== undefined) return known.exports;
    const evaluate: Evaluate = this.compile(name).runInThisContext();
    const module: { exports: Exports } = { exports: {} };
    // Before it is evaluated, since chunks may require each other in a circle.
    this.#modules.set(name, module);
    try {
      evaluate(module.exports, this.#require, module, join(this.#folder, name));
    } catch (error) {
      this.#modules.delete(name);
      throw error;
    }
    return module.exports;
  }

  /** A script that returns the function that evaluates a chunk. */
  compile(name: string): Script {
    const path = join(this.#folder, name);
    const source = this.#read(path);
    const cachedData = readCode(this.#folder, name, source);
    // On the first line, so that stack traces have the lines of the file.
    const text = `(function (exports, require, module, __filename) { ${source.toString()}\n})`;
    const script = new Script(text, { filename: path, ...(cachedData && { cachedData }) });
    this.#onCompiled?.(name, source, script);
    return script;
  }

  #read(path: string): Buffer {
    try {
      return readFileSync(path);
    } catch (cause) {
      if (errorCode(cause) !== 'ENOENT') throw cause;
      throw Object.assign(new Error(`Cannot find module '${path}'`, { cause }), { code: 'MODULE_NOT_FOUND' });
    }
  }
}
