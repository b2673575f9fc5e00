// What `npm run build` makes of src/: a few files that start fast. Four hundred modules and their packages, each read and
// parsed for itself, cost every command half a second.
//
//   dist/entrepot.cjs                      the starter, which people run
//   dist/main.cjs, dist/*-worker.cjs       the program and its threads, and what they share
//   dist/serving-process.cjs             a process that serves clients, if there are several
//   dist/program.cjs                       runs a command line, for the program and for tests in their own process
//   dist/entrepot-credential-provider.cjs  the kubelet's plugin: one file, which needs nothing but Node
//   dist/thread.cjs                        what each thread, and each serving process, starts with
//   dist/code-cache/                       what V8 compiles of the program (code-cache.ts); it may be missing
//   dist/THIRD-PARTY-LICENSES.txt          of the packages in them
//   dist/ui/                               the operator's page, for browsers: src/ui
import { execFileSync } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type Plugin } from 'rolldown';
import { build as buildPage } from 'vite';

const SQLITE = ['better-sqlite3', 'better-sqlite3-napi'];

const { output: chunks } = await build({
  input: [
    'src/main.ts',
    'src/cli/program.ts',
    'src/blobs/hash-worker.ts',
    'src/oci/document-worker.ts',
    'src/tenants/kubernetes/secret-worker.ts',
    'src/compose/survey-worker.ts',
    'src/compose/processes/serving-process.ts',
  ],
  platform: 'node',
  // Compiled parts stay where npm put them.
  external: SQLITE,
  // In a package of Koa's, where no input gets.
  checks: { eval: false },
  // Flat: chunks, and the modules of threads, are beside the files that load them (`lib/chunks.ts`, `lib/thread.ts`).
  output: {
    dir: 'dist',
    // Node resolves and links ES modules at twice the cost.
    format: 'cjs',
    // As in the ES modules that it is made of.
    strict: true,
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name]-[hash].cjs',
    cleanDir: true,
  },
  plugins: [needed(), licenses('THIRD-PARTY-LICENSES.txt')],
});

await oneFile('src/entrepot.ts', 'dist/entrepot.cjs');
await oneFile('src/thread.ts', 'dist/thread.cjs');
await oneFile('src/entrepot-credential-provider.ts', 'dist/entrepot-credential-provider.cjs');
for (const file of ['dist/entrepot.cjs', 'dist/entrepot-credential-provider.cjs']) chmodSync(file, 0o755);
await page();
compile(chunks.flatMap(({ fileName, type }) => (type === 'chunk' ? fileName : [])));

async function oneFile(input: string, file: string): Promise<void> {
  await build({
    input,
    platform: 'node',
    output: { file, format: 'cjs', strict: true, codeSplitting: false },
    plugins: [needed()],
  });
}

/**
 * Files that any server can send as they are: no address in them is absolute, and the document has no script or style of
 * its own, so that its policy can refuse both. Their names change with their content.
 */
async function page(): Promise<void> {
  await buildPage({
    root: 'src/ui',
    configFile: false,
    base: './',
    logLevel: 'warn',
    oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
    build: {
      outDir: '../../dist/ui',
      emptyOutDir: true,
      // Browsers of the last two years: `light-dark()` and nested rules as they are written.
      target: 'es2023',
      cssTarget: ['chrome123', 'firefox123', 'safari17.5'],
      assetsInlineLimit: 0,
      modulePreload: false,
      rolldownOptions: { plugins: [licenses('licenses.txt')] },
    },
  });
}

/**
 * Instead of modules that take long to load and of which nothing, or little, is used: of undici its client, without its
 * `fetch`, WebSocket and mocks, and without the client that it makes for `fetch`. Nothing of `node:child_process` by
 * commander, which would start subcommands that are programs of their own. Nothing of `supports-color`, which is not
 * installed: `debug` would load it from wherever Node finds one, such as `~/.node_modules`.
 */
function needed(): Plugin {
  const client = `
    import Agent from 'undici/lib/dispatcher/agent.js';
    import Dispatcher from 'undici/lib/dispatcher/dispatcher.js';
    import Pool from 'undici/lib/dispatcher/pool.js';
    import ProxyAgent from 'undici/lib/dispatcher/proxy-agent.js';
    import api from 'undici/lib/api/index.js';
    import buildConnector from 'undici/lib/core/connect.js';
    import errors from 'undici/lib/core/errors.js';
    Object.assign(Dispatcher.prototype, api);
    export { Agent, buildConnector, errors, Pool, ProxyAgent };`;
  return {
    name: 'needed',
    resolveId(id, importer = '') {
      if (id === 'undici') return 'needed:undici';
      if (id === 'supports-color') return 'needed:none';
      return id === 'node:child_process' && /\/commander\//.test(importer) ? 'needed:none' : undefined;
    },
    load: id => ({ 'needed:undici': client, 'needed:none': 'module.exports = {};' })[id],
  };
}

/** In a process with the flags of the starter's first line, for which V8 compiles, and without settings of whoever builds. */
function compile(files: readonly string[]): void {
  const env = Object.entries(process.env).filter(([name]) => !/^(ENTREPOT_|NODE_OPTIONS$)/.test(name));
  execFileSync(process.execPath, ['--max-semi-space-size=4', '--import', 'tsx', 'code-cache.ts', ...files], {
    env: Object.fromEntries(env),
    // The program logs to standard output.
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** Writes the licenses of the packages that were bundled, which most of them ask for. */
function licenses(fileName: string): Plugin {
  return {
    name: 'licenses',
    generateBundle(_, bundle) {
      const modules = Object.values(bundle).flatMap(file => (file.type === 'chunk' ? file.moduleIds : []));
      const folders = modules.flatMap(id => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(id)?.[0] ?? []);
      const texts = [...new Set(folders)].sort().map(folder => {
        const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
        const file = readdirSync(folder).find(each => /^(licen[cs]e|copying)\b/i.test(each));
        const text = file === undefined ? '' : readFileSync(join(folder, file), 'utf8').trim();
        return `${name} ${version} (${license})\n\n${text}\n`;
      });
      this.emitFile({ type: 'asset', fileName, source: texts.join(`\n${'-'.repeat(72)}\n\n`) });
    },
  };
}
