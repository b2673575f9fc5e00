import { ArchiveError } from '../archive/archive-error.ts';
import { BlobsUnusable } from '../blobs/blobs-unusable.ts';
import { isStorageFull } from '../blobs/storage-full.ts';
import { ServingFailed } from '../compose/processes/serving-failed.ts';
import { ConfigError } from '../config/problems.ts';
import { deniedHint } from '../lib/file-owner.ts';
import { installFault } from '../lib/install-fault.ts';
import { LeaseLost, PresenceEnded } from '../lib/lease.ts';
import { UnreadableFile } from '../lib/text-file.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { IndexLocked } from '../metadata/index-locked.ts';
import { IndexUnusable } from '../metadata/index-unusable.ts';
import { OciError } from '../oci/errors.ts';
import { InvalidReference } from '../oci/reference.ts';
import { EXIT, type ExitCode } from './command.ts';

const EXPECTED = [
  ArchiveError,
  BlobsUnusable,
  ConfigError,
  IndexLocked,
  IndexUnusable,
  InvalidReference,
  LeaseLost,
  PresenceEnded,
  ServingFailed,
  UnreadableFile,
];
const USAGE = [ConfigError, InvalidReference];

/** The exit code of a command that failed with this error. */
export function exitCodeOf(error: unknown): ExitCode {
  return USAGE.some(kind => error instanceof kind) ? EXIT.usage : EXIT.failed;
}

/**
 * One sentence for an error that people can correct (a port in use, a folder that is not writable, another process that
 * is suspended); a stack for bugs.
 */
export async function failureText(error: unknown): Promise<string> {
  return `${describe(error)}${await deniedHint(error)}`;
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof OciError) return error.reason;
  if (error instanceof IndexAway) return error.operatorText;
  const fault = installFault(error);
  if (fault !== undefined) return fault;
  const isExpected =
    EXPECTED.some(kind => error instanceof kind) || isStorageFull(error) || 'syscall' in error;
  return isExpected ? error.message : (error.stack ?? error.message);
}
