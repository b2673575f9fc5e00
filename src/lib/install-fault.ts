import { errorCode } from './error-code.ts';

/**
 * What is wrong with the installation of the program, in one sentence; `undefined` for any other error. The SQLite
 * driver is compiled for one version of Node's binary interface, and is missing if npm was told to run no scripts.
 */
export function installFault(error: Error): string | undefined {
  const { message } = error;
  const node = `${process.execPath} (${process.version})`;
  const remedy = 'run npm ci, or npm rebuild, with the Node that runs Entrepot';
  if (['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(errorCode(error) ?? '')) {
    return `it is not installed completely: run npm ci next to its package.json (${message.split('\n', 1)[0]})`;
  }
  if (errorCode(error) === 'ERR_DLOPEN_FAILED') {
    const [built, needed] = [...message.matchAll(/NODE_MODULE_VERSION (\d+)/g)].map(([, version]) => version);
    const why =
      built === undefined
        ? message.split('\n', 1)[0]
        : `it was built for another version of Node, with NODE_MODULE_VERSION ${built} instead of ${needed ?? process.versions.modules}`;
    return `the SQLite driver cannot be loaded by ${node}: ${why}; ${remedy}`;
  }
  const isMissing = message.startsWith('Could not locate the bindings file');
  return isMissing ? `the SQLite driver was not built for ${node}: ${remedy}` : undefined;
}
