/** The `code` that Node and SQLite put on their errors (`ENOENT`, `SQLITE_BUSY`); `undefined` when there is none. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) {
    return undefined;
  }
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Awaits `operation`; `undefined` instead of a rejection with `ENOENT`. Everything else that goes wrong is thrown. */
export async function absentAsUndefined<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}
