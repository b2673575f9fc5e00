import { addAbortSignal, type Readable } from 'node:stream';
import { tenantGrantee } from '../grants/grants.ts';
import { ArchiveError } from '../archive/archive-error.ts';
import type { CompleteOptions } from '../archive/contents.ts';
import { type ArchiveEntry, openArchive, readArchive } from '../archive/open-archive.ts';
import type { ImagePlace, PlacementOptions } from '../archive/placement.ts';
import { deniedHint } from '../lib/file-owner.ts';
import type { NamedRepository, RepositoryResolver } from '../oci/repository-resolver.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import { EXIT, type ExitCode, type Input, type Io } from './command.ts';
import { platformsOption } from './list-options.ts';
import type { ProgressView } from './progress.ts';
import type { Renames } from './renames.ts';

/** The placement of images of archives, according to the options. */
export function placementOf(
  input: Input,
  {
    resolver,
    renames,
    tenantName,
  }: {
    readonly resolver: RepositoryResolver;
    readonly renames: Renames;
    readonly tenantName: string | undefined;
  },
): Omit<PlacementOptions, 'allPlaced'> & Pick<CompleteOptions, 'platforms'> {
  const placeOf = (name: string | undefined): ImagePlace | undefined => {
    const here = renames.nameOf(name);
    if (here === undefined) return undefined;
    const { repository, tag, digest } = destinationOf(resolver, here);
    return { repository, tag: tag ?? (digest === undefined ? DEFAULT_TAG : undefined), digest };
  };
  return {
    placeOf,
    platforms: platformsOption(input),
    grantee: tenantName === undefined ? undefined : tenantGrantee(tenantName),
    mayPublish: input.options['public'] === true,
  };
}

/** One of the archives that were named. */
export interface NamedArchive {
  /** As typed. */
  readonly file: string;
  readonly entries: AsyncIterable<ArchiveEntry>;
  /**
   * Called when its images have their places; after the last archive, checks that all renames were used. `undefined` if
   * an earlier archive failed, since it may contain the names.
   */
  readonly allPlaced: (() => void) | undefined;
  /** Called with the number of bytes as they are read. */
  readonly progress: (bytes: number) => void;
}

/** The result of one archive: a line for people, and what to print. */
export interface ArchiveOutcome {
  readonly text: string;
  readonly tell: () => void;
  readonly isRefused?: boolean;
}

/** Reads every archive that was named, continuing after those that are refused, which the exit code reports. */
export async function eachArchive(
  input: Input,
  io: Io,
  {
    view,
    renames,
    signal,
  }: { readonly view: ProgressView; readonly renames: Renames; readonly signal: AbortSignal },
  act: (archive: NamedArchive) => Promise<ArchiveOutcome>,
): Promise<ExitCode> {
  let failed = 0;
  for (const [index, file] of input.arguments.entries()) {
    const item = view.begin(file === '-' ? 'standard input' : file);
    try {
      const entries = entriesOf(file, signal);
      const isAfterAll = index === input.arguments.length - 1 && failed === 0;
      const allPlaced = isAfterAll ? () => renames.requireAllUsed() : undefined;
      const progress = (bytes: number) => item.advance(bytes);
      const { text, tell, isRefused } = await act({ file, entries, allPlaced, progress });
      item.end(isRefused ? 'failed' : 'done', text);
      if (isRefused) failed += 1;
      tell();
    } catch (error) {
      // Ctrl-C ends the whole pipe: an archive that is truncated by it was not refused.
      if (!(error instanceof ArchiveError) || signal.aborted) throw error;
      item.end('failed', `${error.message}${await deniedHint(error.cause)}`);
      failed += 1;
    } finally {
      view.close();
    }
  }
  const unless = failed === 0 ? '' : ' (an archive that failed may contain it)';
  for (const name of renames.unreported) io.err(`--rename: no image has the name ${name}${unless}\n`);
  return failed === 0 && renames.unreported.length === 0 ? EXIT.done : EXIT.failed;
}

function entriesOf(file: string, signal: AbortSignal): AsyncIterable<ArchiveEntry> {
  return file === '-' ? readArchive(standardInput(signal)) : openArchive(file, signal);
}

/** A pipe may provide nothing for hours, so the signal must end waiting for it. */
function standardInput(signal: AbortSignal): Readable {
  return addAbortSignal(signal, process.stdin);
}

/**
 * The meaning of a name. Throws ArchiveError, with suggestions, for a name under which nobody could pull the image
 * here.
 */
function destinationOf(resolver: RepositoryResolver, name: string): NamedRepository {
  try {
    return resolver.destinationOf(name);
  } catch (cause) {
    if (!(cause instanceof OciError) || cause.code !== 'NAME_UNKNOWN') throw cause;
    const ways = 'configure it, or give the image another name with --rename OLD=NEW';
    throw new ArchiveError(`${cause.message}: ${ways}`, { cause });
  }
}
