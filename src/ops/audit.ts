import { createLogger } from './logger.ts';

export interface AuditOptions {
  readonly output: 'none' | 'stdout' | 'file';
  readonly auditFile?: string | undefined;
}

/** Who did what, when, and what came of it: apart from the log, for who keeps it longer, and never with a secret. */
export interface Audit {
  record(fields: object): void;
  /** Writes out what is buffered, before it returns. */
  flush(): void;
}

/** `undefined` where nobody wants one. */
export function createAudit({ output, auditFile }: AuditOptions): Audit | undefined {
  if (output === 'none') return undefined;
  const file = output === 'file' ? auditFile : undefined;
  const { log, flush } = createLogger({ level: 'info', format: 'json', file });
  return { record: fields => log.info(fields, 'audit'), flush };
}
