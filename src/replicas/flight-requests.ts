import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FlightBoard, Landing } from '../mirror/shared-flights.ts';
import { callIn } from './call-header.ts';
import { readJsonBody } from './json-body.ts';

/** Says how a flight has begun: `lead` or `landed`. */
export const FLIGHT_HEADER = 'entrepot-flight';
export const FLIGHTS_PATH = '/flights';

/** The key of a flight that is asked for; `undefined` if it is a request for something else. */
export function parseFlight(req: IncomingMessage): string | undefined {
  return req.method === 'POST' && req.url === FLIGHTS_PATH ? callIn(req) : undefined;
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
  calls.land({ key, landing: await readJsonBody<Landing>(req) });
  res.end();
}
