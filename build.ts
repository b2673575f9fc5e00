// What `npm run build` makes of src/: a few files that start fast. Four hundred modules and their packages, each read and
// parsed for itself, cost every command half a second.
//
//   dist/entrepot.cjs                      the starter, which people run
//   dist/main.cjs, dist/*-worker.cjs       the program and its threads, and what they share
//   dist/program.cjs                       runs a command line, for the program and for tests in their own process
//   dist/entrepot-credential-provider.cjs  the kubelet's plugin: one file, which needs nothing but Node
//   dist/THIRD-PARTY-LICENSES.txt          of the packages in them
import { chmodSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type Plugin } from 'rolldown';

const SQLITE = ['better-sqlite3', 'better-sqlite3-napi'];

await build({
  input: [
    'src/main.ts',
    'src/cli/program.ts',
    'src/blobs/hash-worker.ts',
    'src/oci/document-worker.ts',
    'src/tenants/kubernetes/secret-worker.ts',
    'src/compose/survey-worker.ts',
  ],
  platform: 'node',
  // Compiled parts stay where npm put them.
  external: SQLITE,
  // In a package of Koa's, where no input gets.
  checks: { eval: false },
  // Flat: a thread's module is beside the file that starts it (`lib/thread.ts`).
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
  plugins: [licenses('THIRD-PARTY-LICENSES.txt')],
});

await build({
  input: 'src/entrepot.cts',
  platform: 'node',
  output: { file: 'dist/entrepot.cjs', format: 'cjs', codeSplitting: false },
  plugins: [mainBeside(), executable('dist/entrepot.cjs')],
});

await build({
  input: 'src/entrepot-credential-provider.ts',
  platform: 'node',
  output: { file: 'dist/entrepot-credential-provider.cjs', format: 'cjs', codeSplitting: false },
  plugins: [executable('dist/entrepot-credential-provider.cjs')],
});

/** The starter sets up the process before it loads the program, so the program is a file of its own. */
function mainBeside(): Plugin {
  return {
    name: 'main-beside',
    resolveId: id => (id === './main.ts' ? { id: './main.cjs', external: true } : undefined),
  };
}

function executable(file: string): Plugin {
  return { name: 'executable', writeBundle: () => chmodSync(file, 0o755) };
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
