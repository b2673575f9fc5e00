import type { Digest } from './digest.ts';
import type { Repository } from './repository.ts';

/** What receivers of notifications can be told of, by the names in `notifications.endpoints[].events`. */
export const EVENT_KINDS = [
  'push',
  'delete',
  'pull',
  'download',
  'download-failed',
  'evict',
  'quota',
  'secret',
  'upstream',
] as const;

/** `test`: the operator tries an endpoint. */
export type EventKind = (typeof EVENT_KINDS)[number] | 'test';

/** Who has caused an event: what is known of the request. */
export interface EventActor {
  /** The tenant, or else `Requester.id`. */
  readonly name: string;
  readonly remote?: string | undefined;
  readonly method?: string | undefined;
  readonly host?: string | undefined;
  readonly userAgent?: string | undefined;
}

/** Something that has happened, for receivers of notifications. */
export interface RegistryEvent {
  readonly kind: EventKind;
  /** The one that it is about, if it is about one. */
  readonly repository?: Repository | undefined;
  readonly tag?: string | undefined;
  readonly digest?: Digest | undefined;
  readonly mediaType?: string | undefined;
  /** Bytes. */
  readonly size?: number | undefined;
  readonly actor?: EventActor | undefined;
  /** What was evicted. */
  readonly content?: 'blob' | 'manifest' | undefined;
  /** Whose Secret or quota it is. */
  readonly tenant?: string | undefined;
  readonly secret?: string | undefined;
  /** The one that it is about, if it is about no repository of it. */
  readonly upstream?: string | undefined;
  /** Of the Secret, or of the upstream. */
  readonly state?: 'loaded' | 'missing' | 'malformed' | 'reachable' | 'unreachable' | undefined;
  /** Why, for people. */
  readonly reason?: string | undefined;
}

/** Called for what changes nothing that the index says: it is told a moment later, and a crash may lose it. */
export type NoteEvent = (event: RegistryEvent) => void;
