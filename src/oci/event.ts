import type { Digest } from './digest.ts';
import type { Repository } from './repository.ts';

/** What receivers of notifications can be told of, by the names in `notifications.endpoints[].events`. */
export const EVENT_KINDS = ['push', 'delete', 'pull'] as const;

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
}
