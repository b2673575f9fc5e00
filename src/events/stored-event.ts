import { randomUUID } from 'node:crypto';
import type { RegistryEvent } from '../oci/event.ts';
import { repositoryText } from '../oci/repository.ts';

/**
 * An event as it waits in the outbox, whatever its endpoint's format. Older versions have written some, and newer ones may
 * read them: members are added, and never renamed.
 */
export interface StoredEvent extends Omit<RegistryEvent, 'repository'> {
  /** Its own, however often it is sent. */
  readonly id: string;
  /** When it happened, epoch ms; of several alike, the first. */
  readonly atMs: number;
  /** With its upstream, if it is mirrored. */
  readonly repository?: string | undefined;
  /** How many alike it stands for, if more than one. */
  readonly count?: number | undefined;
}

/** The event with an id of its own. */
export function storedEvent(event: RegistryEvent, atMs: number, count = 1): StoredEvent {
  const { repository, ...rest } = event;
  return {
    id: randomUUID(),
    atMs,
    ...rest,
    ...(repository && { repository: repositoryText(repository) }),
    ...(count > 1 && { count }),
  };
}

export function parseStoredEvent(body: string): StoredEvent {
  const event: StoredEvent = JSON.parse(body);
  return event;
}

/** What it is about: an image reference, the name of an upstream, or a tenant with its Secret. */
export function subjectOf(event: Omit<StoredEvent, 'id' | 'atMs' | 'kind'>): string | undefined {
  const { repository, tag, digest, upstream, tenant, secret } = event;
  if (repository === undefined) return upstream ?? (tenant === undefined ? digest : `${tenant}/${secret}`);
  if (tag !== undefined) return `${repository}:${tag}`;
  return digest === undefined ? repository : `${repository}@${digest}`;
}
