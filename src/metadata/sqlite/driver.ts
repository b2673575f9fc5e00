import { createRequire } from 'node:module';
import Compiled from 'better-sqlite3';

/** The Node-API that the ABI-stable driver is built for; an older Node would crash in it, not refuse it. */
const NAPI_VERSION = 10;

/**
 * SQLite for this Node. There are two builds of one driver, with one interface, because no single one runs everywhere:
 * version 13 needs Node-API 10, which Node 20 never gets, and version 12 aborts the process at the next garbage
 * collection when it was compiled with the headers of Node 24.19 or 26.4 and later (nodejs/node#65446).
 */
export const Database = stableDriver() ?? Compiled;
export type Database = Compiled.Database;

export type Statement<Parameters extends unknown[], Row = unknown> = Compiled.Statement<Parameters, Row>;

/** Absent where npm left it out (an older Node) or has no binary of it (a rare platform). */
function stableDriver(): typeof Compiled | undefined {
  if (Number(process.versions['napi']) < NAPI_VERSION) return undefined;
  try {
    const Stable: typeof Compiled = createRequire(import.meta.url)('better-sqlite3-napi');
    // Its binary is loaded with the first database.
    new Stable(':memory:').close();
    return Stable;
  } catch {
    return undefined;
  }
}
