import type { Readable } from 'node:stream';
import type { Clock } from '../lib/clock.ts';
import { HttpClient } from '../lib/http-client.ts';
import type { ProxySettings } from '../lib/proxy.ts';
import { formatDuration } from '../lib/units.ts';
import { scopeOf } from '../upstream/address.ts';
import { discard } from '../upstream/body.ts';
import { type EventFormat, type EventSource, envelopeOf } from './envelope.ts';
import { signatureHeaders } from './signature.ts';
import type { StoredEvent } from './stored-event.ts';

/** How an endpoint is reached, and what it expects. */
export interface EndpointSettings {
  readonly name: string;
  readonly url: string;
  readonly format: EventFormat;
  /** By name in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly signingKey: string | undefined;
  /** PEM. */
  readonly ca: string | undefined;
  readonly timeoutMs: number;
  /** How many one request may have. */
  readonly eventsPerRequest?: number | undefined;
}

export interface EndpointClientOptions {
  readonly endpoint: EndpointSettings;
  readonly source: EventSource;
  readonly proxy: ProxySettings | undefined;
  readonly userAgent: string;
  readonly clock: Clock;
}

/** How many events a request has unless the endpoint says so: not every receiver of CloudEvents knows batches. */
const EVENTS_PER_REQUEST = { distribution: 100, cloudevents: 1 } as const;

/**
 * Statuses that say something about what was sent, so that the same will hardly ever be accepted (RFC 9110 §15.5). Any other
 * failure is one of the endpoint, its URL or headers, and ends when that is mended.
 */
const ABOUT_CONTENT: ReadonlySet<number> = new Set([400, 406, 409, 413, 415, 422]);

/** An endpoint has not accepted a request. The message is for people, without the URL. */
export class DeliveryFailed extends Error {
  override readonly name = 'DeliveryFailed';
  /** Whether the endpoint has refused what was sent, rather than failed. */
  readonly isRefusal: boolean;

  constructor(
    message: string,
    { isRefusal = false, ...options }: ErrorOptions & { isRefusal?: boolean } = {},
  ) {
    super(message, options);
    this.isRefusal = isRefusal;
  }
}

/** Sends events to one endpoint. */
export class EndpointClient {
  readonly eventsPerRequest: number;
  readonly #options: EndpointClientOptions;
  readonly #url: URL;
  readonly #http: HttpClient;

  constructor(options: EndpointClientOptions) {
    const { endpoint, proxy } = options;
    const { timeoutMs, ca, format } = endpoint;
    this.#options = options;
    this.#url = new URL(endpoint.url);
    this.eventsPerRequest = endpoint.eventsPerRequest ?? EVENTS_PER_REQUEST[format];
    this.#http = new HttpClient({
      connectMs: timeoutMs,
      headersMs: timeoutMs,
      idleBodyMs: timeoutMs,
      ca,
      proxy,
      // Whatever its name means by now. Others are those of the operator, as for the `url` of an upstream.
      guard: { admit: refuseNever, connected: () => {} },
    });
  }

  /**
   * Resolves with the status when the endpoint has accepted the events (2xx). Rejects with DeliveryFailed otherwise: it
   * may have received them all the same. A redirect is not followed, since it might lead anywhere.
   */
  async send(events: readonly StoredEvent[]): Promise<number> {
    const { endpoint, source, userAgent, clock } = this.#options;
    const { format, headers, signingKey, timeoutMs } = endpoint;
    const { contentType, body } = envelopeOf(events, { format, source, single: this.eventsPerRequest === 1 });
    const signed = signingKey === undefined ? {} : signatureHeaders(body, signingKey, clock.nowMs());
    const signal = AbortSignal.timeout(timeoutMs);
    const bytes = Buffer.from(body);
    try {
      const response = await this.#http.request({
        method: 'POST',
        url: this.#url,
        headers: {
          'user-agent': userAgent,
          ...headers,
          'content-type': contentType,
          'content-length': String(bytes.byteLength),
          ...signed,
        },
        body: bytes,
        // An event that arrives twice has the same id.
        isIdempotent: true,
        signal,
      });
      await drain(response.body);
      requireSuccess(response.status);
      return response.status;
    } catch (error) {
      if (error instanceof DeliveryFailed) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new DeliveryFailed(signal.aborted ? `no answer within ${formatDuration(timeoutMs)}` : reason, {
        cause: error,
      });
    }
  }

  /** Aborts what is being sent. */
  close(): Promise<void> {
    return this.#http.close();
  }
}

/** Discards the body, which nobody needs. Once it is read, the connection can be used again. */
async function drain(body: Readable): Promise<void> {
  const closed = new Promise<void>(resolve => body.once('close', resolve));
  discard(body);
  await closed;
}

function requireSuccess(status: number): void {
  if (status >= 200 && status < 300) return;
  const isRedirect = status >= 300 && status < 400;
  throw new DeliveryFailed(`it answered ${status}${isRedirect ? ', and redirects are not followed' : ''}`, {
    isRefusal: ABOUT_CONTENT.has(status),
  });
}

function refuseNever(address: string, hostname: string): void {
  if (scopeOf(address) !== 'never') return;
  throw new Error(`${hostname} resolves to ${address}, which is never allowed`);
}
