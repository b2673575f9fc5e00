import { createRequire } from 'node:module';
import Compiled from 'better-sqlite3';

/** The Node-API version that the ABI-stable driver needs; an older Node would crash instead of refusing it. */
const NAPI_VERSION = 10;

/**
 * The SQLite driver for this Node. There are two versions of the same driver, since neither runs everywhere: version 13
 * needs Node-API 10, which Node 20 never gets, and version 12 makes the process abort at the next garbage collection if
 * it was compiled with the headers of Node 24.19, or 26.4 and later (nodejs/node#65446).
 */
export const Database = stableDriver() ?? Compiled;
export type Database = Compiled.Database;

export type Statement<Parameters extends unknown[], Row = unknown> = Compiled.Statement<Parameters, Row>;

/** `undefined` if npm did not install it (for an older Node) or it has no binary for this platform. */
function stableDriver(): typeof Compiled | undefined {
  if (Number(process.versions['napi']) < NAPI_VERSION) return undefined;
  try {
    const Stable: typeof Compiled = createRequire(import.meta.url)('better-sqlite3-napi');
    // Its binary is loaded when the first database is opened.
    new Stable(':memory:').close();
    return Stable;
  } catch {
    return undefined;
  }
}
