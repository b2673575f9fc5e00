import type { Config, EndpointConfig } from '../config/config.ts';
import type { Announcements } from '../events/announcements.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { Announce, Outbox } from '../metadata/outbox.ts';
import type { NoteEvent } from '../oci/event.ts';

interface EventDeskNeeds {
  readonly outbox: Outbox | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/**
 * Where the parts of this process bring their events, whichever endpoints there are at the moment. Loads nothing unless there
 * is one.
 */
export class EventDesk {
  readonly #needs: EventDeskNeeds;
  #announcements: Announcements | undefined;

  constructor(needs: EventDeskNeeds) {
    this.#needs = needs;
  }

  readonly announce: Announce = event => this.#announcements?.announce(event) ?? [];

  readonly note: NoteEvent = event => this.#announcements?.note(event);

  /** Follows the configuration. Throws if there are endpoints and the index has no outbox. */
  async follow({ notifications }: Pick<Config, 'notifications'>): Promise<void> {
    const previous = this.#announcements;
    this.#announcements = await this.#announcementsTo(notifications.endpoints);
    await previous?.close();
  }

  /** Writes what was noted. */
  async close(): Promise<void> {
    await this.#announcements?.close();
  }

  async #announcementsTo(endpoints: readonly EndpointConfig[]): Promise<Announcements | undefined> {
    if (endpoints.length === 0) return undefined;
    const { outbox, ...needs } = this.#needs;
    if (outbox === undefined) throw new Error('notifications: the index of this store has no outbox');
    const loaded = await import('../events/announcements.ts');
    return new loaded.Announcements({ ...needs, outbox, subscribers: endpoints });
  }
}
