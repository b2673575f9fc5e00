import { type StoredEvent, subjectOf } from './stored-event.ts';

/** How an endpoint wants events. */
export type EventFormat = 'distribution' | 'cloudevents';

/** Who sends events: what they say of this server. */
export interface EventSource {
  /** A URI reference: `https://registry.example`, `//node-1`. */
  readonly uri: string;
  /** The name of this machine. */
  readonly host: string;
}

/** The body of a request. */
export interface Envelope {
  readonly contentType: string;
  readonly body: string;
}

/** Events in a format. `single`: CloudEvents' structured mode, which has exactly one, instead of the batched one. */
export function envelopeOf(
  events: readonly StoredEvent[],
  { format, single, source }: { format: EventFormat; single: boolean; source: EventSource },
): Envelope {
  if (format === 'distribution') {
    const body = JSON.stringify({ events: events.map(event => distributionEvent(event, source)) });
    return { contentType: 'application/vnd.docker.distribution.events.v2+json', body };
  }
  const all = events.map(event => cloudEvent(event, source));
  return single
    ? { contentType: 'application/cloudevents+json; charset=utf-8', body: JSON.stringify(all[0]) }
    : { contentType: 'application/cloudevents-batch+json; charset=utf-8', body: JSON.stringify(all) };
}

/** As in distribution's `notifications`. What it does not know is below `entrepot`, where it is ignored. */
function distributionEvent(event: StoredEvent, source: EventSource): object {
  const { id, atMs, kind, repository, tag, digest, mediaType, size, actor, ...more } = event;
  return {
    id,
    timestamp: new Date(atMs).toISOString(),
    action: kind,
    target: { mediaType, size, length: size, digest, repository, tag },
    request: {
      id,
      addr: actor?.remote,
      host: actor?.host,
      method: actor?.method,
      useragent: actor?.userAgent,
    },
    actor: { name: actor?.name },
    source: { addr: source.host },
    ...(Object.keys(more).length > 0 && { entrepot: more }),
  };
}

/** CloudEvents 1.0, JSON format. Events of one repository are in order, and have one partition key. */
function cloudEvent({ id, atMs, kind, ...data }: StoredEvent, source: EventSource): object {
  const subject = subjectOf(data);
  return {
    specversion: '1.0',
    id,
    source: source.uri,
    type: `entrepot.${kind}`,
    ...(subject !== undefined && { subject, partitionkey: data.repository ?? subject }),
    time: new Date(atMs).toISOString(),
    datacontenttype: 'application/json',
    data,
  };
}
