import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AskedFlight, FlightBoard, Landing } from '../mirror/shared-flights.ts';
import { callIn } from './call-header.ts';
import { readJsonBody } from './json-body.ts';

/** Says how a flight has begun: `lead` or `landed`. */
export const FLIGHT_HEADER = 'entrepot-flight';
/** Says how long ago whoever asks for a flight began, as `AgoMs`. */
export const FLIGHT_AGO_HEADER = 'entrepot-flight-ago-ms';
export const FLIGHTS_PATH = '/flights';

/** A flight that is asked for; `undefined` if it is a request for something else. */
export function parseFlight(req: IncomingMessage): AskedFlight | undefined {
  if (req.method !== 'POST' || req.url !== FLIGHTS_PATH) return undefined;
  return { key: callIn(req), agoMs: agoMsIn(req) };
}

/** 0 if it is not said, as by a replica of the version before, or is no duration. */
function agoMsIn({ headers }: IncomingMessage): number {
  const agoMs = Number(headers[FLIGHT_AGO_HEADER]);
  return Number.isFinite(agoMs) && agoMs > 0 ? agoMs : 0;
}

/**
 * Lets another replica fly. It either gets the landing of whoever leads, or leads itself: the end of its request is then the
 * landing, and if it breaks off, somebody else leads.
 */
export async function answerFlight(
  board: FlightBoard,
  asked: AskedFlight,
  { req, res }: { readonly req: IncomingMessage; readonly res: ServerResponse },
): Promise<void> {
  const process = {};
  const calls = board.of(process);
  res.once('close', () => board.forget(process));
  const flown = await calls.fly(asked);
  if (flown !== 'lead') {
    res.writeHead(200, { [FLIGHT_HEADER]: 'landed' }).end(JSON.stringify(flown));
    return;
  }
  res.writeHead(200, { [FLIGHT_HEADER]: 'lead' });
  res.flushHeaders();
  calls.land({ key: asked.key, landing: await readJsonBody<Landing>(req) });
  res.end();
}
