/**
 * The outbox: what is still to be sent to other programs, each message to one endpoint. It is part of the index, so that a
 * message can be written in the transaction of what it tells of: both are there, or neither. `outbox.suite.ts` is what
 * every implementation passes.
 */
import type { Lease } from '../lib/lease.ts';
import type { RegistryEvent } from '../oci/event.ts';

/**
 * How many messages may wait for one endpoint. A receiver that is away for a weekend misses nothing of an event every two
 * seconds, and with 700 bytes each they take 70 MB of the index.
 */
export const MAX_WAITING = 100_000;

/** How many of these may be minor: however many come, there is room for the others. */
export const MAX_WAITING_MINOR = MAX_WAITING / 2;

/** For how long a message waits. A receiver will hardly come back after that. */
export const KEPT_WAITING_MS = 7 * 24 * 3_600_000;

/** How many of the oldest messages `dropBefore` looks at, and `skip` removes, in one transaction. */
export const DROPPED_AT_ONCE = 100;

/** The key of the Lease under which one process sends to an endpoint. */
export function senderLease(endpoint: string): string {
  return `notifications-${endpoint}`;
}

/** A message for an endpoint. */
export interface OutboxMessage {
  /** Its name. */
  readonly endpoint: string;
  /** Whatever the sender understands; a few KiB. */
  readonly body: string;
  /** When what it tells of has happened, epoch ms. */
  readonly atMs: number;
  /** Whether it is dropped when `MAX_WAITING_MINOR` messages wait. Default: no. */
  readonly isMinor?: boolean | undefined;
}

/** A message that its endpoint has not received yet. */
export interface WaitingMessage {
  /** Increases with each message of the endpoint, in the order of the transactions that wrote them. */
  readonly position: number;
  readonly body: string;
}

/** What waits for an endpoint. */
export interface OutboxState {
  readonly waiting: number;
  /** Of the oldest that waits, epoch ms; `undefined` if none waits. */
  readonly oldestAtMs: number | undefined;
  /** How many were dropped since the endpoint got its first one: too many were waiting, or it waited too long. */
  readonly dropped: number;
}

/** The outbox of a store, for all its processes. */
export interface Outbox {
  /**
   * Adds messages. One too many is dropped and counted. A power failure may lose the last ones, since nothing else was
   * written with them.
   */
  put(messages: readonly OutboxMessage[]): Promise<void>;
  /** The oldest messages for an endpoint, in order. */
  listNext(endpoint: string, limit: number): Promise<readonly WaitingMessage[]>;
  /**
   * Removes what the endpoint has received: all up to `position`. Rejects with LeaseLost if the Lease belongs to another
   * process. A power failure may bring the last ones back.
   */
  remove(endpoint: string, position: number, lease: Lease): Promise<void>;
  /**
   * Removes some of the messages that wait for an endpoint at these positions, the oldest first, whoever sends. They do not
   * count as dropped. Returns how many; none if none is left.
   */
  skip(endpoint: string, positions: { readonly from: number; readonly to: number }): Promise<number>;
  readState(endpoint: string): Promise<OutboxState>;
  /** Drops some of the oldest messages, of any endpoint, if they are from before `beforeMs`. Returns how many. */
  dropBefore(beforeMs: number): Promise<number>;
}

/** The messages that are to be written with what the event tells of; none if no endpoint wants it. */
export type Announce = (event: RegistryEvent) => readonly OutboxMessage[];
