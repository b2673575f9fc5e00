/** Errors of Linux file systems without a name in Node, which calls them `Unknown system error -116`. */
const NAMELESS: Readonly<Record<number, string>> = { [-116]: 'ESTALE', [-117]: 'EUCLEAN' };

/** The `code` of errors of Node and SQLite (`ENOENT`, `SQLITE_BUSY`); `undefined` if there is none. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) {
    return undefined;
  }
  const named = 'errno' in error && typeof error.errno === 'number' ? NAMELESS[error.errno] : undefined;
  return named ?? (typeof error.code === 'string' ? error.code : undefined);
}

/** How many nested causes are examined. */
const MAX_CAUSES = 5;

/** An error, its cause, the cause of that, and so on, as far as they are errors, up to five in all. */
export function* errorsIn(error: unknown): Generator<Error, void> {
  let cause = error;
  for (let depth = 0; depth < MAX_CAUSES && cause instanceof Error; depth += 1) {
    yield cause;
    cause = cause.cause;
  }
}

/** The result of `operation`; `undefined` if it rejects with `ENOENT`. Other errors are thrown. */
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
