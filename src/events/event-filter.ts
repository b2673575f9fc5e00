import { matchesName } from '../lib/name-pattern.ts';
import type { EventKind, RegistryEvent } from '../oci/event.ts';
import { repositoryText } from '../oci/repository.ts';

/** Which events an endpoint gets. */
export interface EventFilter {
  /** Default: all. */
  readonly events?: readonly Exclude<EventKind, 'test'>[] | undefined;
  /** Patterns, with the upstream of mirrored repositories: for events that are about a repository. Default: all. */
  readonly repositories?: readonly string[] | undefined;
}

export function wantsEvent(
  { events, repositories }: EventFilter,
  { kind, repository }: RegistryEvent,
): boolean {
  if (events !== undefined && !events.some(wanted => wanted === kind)) return false;
  if (repositories === undefined || repository === undefined) return true;
  const name = repositoryText(repository);
  return repositories.some(pattern => matchesName(pattern, name));
}
