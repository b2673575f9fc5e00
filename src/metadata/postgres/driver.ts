import { Pool as DriverPool, type PoolClient, type QueryConfig, TypeOverrides } from 'pg';
import { requireTextFile } from '../../lib/text-file.ts';
import { PasswordUnreadable } from './failures.ts';
import type { PostgresSettings } from './postgres-settings.ts';

export type Pool = DriverPool;
export type Client = PoolClient;

/** A node that does not answer is as good as down: the next attempt may get another one. */
const CONNECT_TIMEOUT_MS = 5_000;

/** Poolers and firewalls forget connections after minutes; a burst is over sooner. */
const IDLE_TIMEOUT_MS = 30_000;

/** Passwords are far shorter; tokens in place of one have a few KiB. */
const MAX_PASSWORD_FILE_BYTES = 1 << 20;

/** Object ids of types, which never change (pg_type). */
const INT8 = 20;

/** `max`: how many connections at most. Opens none yet. */
export function openPool(
  { host, port, database, user, password, passwordFile, tls }: PostgresSettings,
  { max, answerWithinMs }: { readonly max: number; readonly answerWithinMs: number },
): Pool {
  const pool = new DriverPool({
    host,
    port,
    database,
    user,
    password: passwordFile === undefined ? (password ?? '') : () => readPassword(passwordFile),
    ssl:
      tls === undefined ? false : { ...(tls.ca !== undefined && { ca: tls.ca }), rejectUnauthorized: true },
    max,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: IDLE_TIMEOUT_MS,
    // In the client, since a pooler accepts no settings of a session, and a connection that was cut off gives no error.
    query_timeout: answerWithinMs,
    keepAlive: true,
    application_name: 'entrepot',
    types: parsers(),
  });
  // Of an idle connection: the pool has dropped it. Whoever needs one next gets the error, if it persists.
  pool.on('error', () => {});
  // Of one that is used: its statements get the error, too. An event that nobody listens to would end the process; one may
  // come together with the end of what was asked before, so that nothing may run in between.
  pool.on('connect', client => client.on('error', () => {}));
  return pool;
}

async function readPassword(file: string): Promise<string> {
  try {
    return (await requireTextFile(file, MAX_PASSWORD_FILE_BYTES)).replace(/\r?\n$/, '');
  } catch (error) {
    throw new PasswordUnreadable(error);
  }
}

/** Numbers of the index are sizes, times and counts, which JavaScript represents exactly. */
function parsers(): TypeOverrides {
  const overrides = new TypeOverrides();
  overrides.setTypeParser(INT8, Number);
  return overrides;
}

/** A statement, and when a connection without an answer is considered dead. */
export function statement(text: string, values: readonly unknown[], answerWithinMs: number): QueryConfig {
  // Not in the driver's types.
  const withLimit = { text, values: values.map(integral), query_timeout: answerWithinMs };
  return withLimit;
}

/** A parameter as it is sent. Times may have fractions, or be later than any; columns are integers. */
export function integral(value: unknown): unknown {
  if (typeof value !== 'number') return value;
  return Math.max(Number.MIN_SAFE_INTEGER, Math.min(Math.round(value), Number.MAX_SAFE_INTEGER));
}
