import type { PostgresSession, Rows } from './session.ts';

// Values that all processes share.

export async function readSetting(on: Rows, name: string): Promise<string | undefined> {
  return (await on.row<{ value: string }>('SELECT value FROM @settings WHERE name = $1', [name]))?.value;
}

export async function putSetting(on: PostgresSession, name: string, value: string): Promise<void> {
  await on.changes(
    'INSERT INTO @settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
    [name, value],
  );
}

/** Sets it unless it is set; returns the value that is then set. */
export async function initSetting(on: PostgresSession, name: string, value: string): Promise<string> {
  await on.changes('INSERT INTO @settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING', [
    name,
    value,
  ]);
  return (await readSetting(on, name)) ?? value;
}
