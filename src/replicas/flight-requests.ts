import type { IncomingMessage, ServerResponse } from 'node:http';
import { collectBytes } from '../lib/collect-bytes.ts';
import type { FlightBoard, Landing } from '../mirror/shared-flights.ts';
import { CALL_HEADER } from './upload-requests.ts';

/** Says how a flight has begun: `lead` or `landed`. */
export const FLIGHT_HEADER = 'entrepot-flight';
export const FLIGHTS_PATH = '/flights';

/** A digest with some flags, or a failure with its message. */
export const MAX_LANDING_BYTES = 64 * 1024;

/** The key of a flight that is asked for; `undefined` if it is a request for something else. */
export function parseFlight({ method, url, headers }: IncomingMessage): string | undefined {
  if (method !== 'POST' || url !== FLIGHTS_PATH) return undefined;
  return decodeURIComponent(String(headers[CALL_HEADER]));
}

/**
 * Lets another replica fly. It either gets the landing of whoever leads, or leads itself: the end of its request is then the
 * landing, and if it breaks off, somebody else leads.
 */
export async function answerFlight(
  board: FlightBoard,
  key: string,
  { req, res }: { readonly req: IncomingMessage; readonly res: ServerResponse },
): Promise<void> {
  const process = {};
  const calls = board.of(process);
  res.once('close', () => board.forget(process));
  const flown = await calls.fly(key);
  if (flown !== 'lead') {
    res.writeHead(200, { [FLIGHT_HEADER]: 'landed' }).end(JSON.stringify(flown));
    return;
  }
  res.writeHead(200, { [FLIGHT_HEADER]: 'lead' });
  res.flushHeaders();
  calls.land({ key, landing: parseLanding(await collectBytes(req, MAX_LANDING_BYTES, tooLarge)) });
  res.end();
}

/** The landing in the body of a request or response. */
export function parseLanding(bytes: Buffer): Landing {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- whoever has the key of the cluster is another replica
  return JSON.parse(bytes.toString()) as Landing;
}

export function tooLarge(): Error {
  return new Error(`a landing has more than ${MAX_LANDING_BYTES} bytes`);
}
