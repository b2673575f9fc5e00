import type { OutgoingHttpHeaders } from 'node:http';
import type { ProblemCode, ProblemDocument } from './documents/problem.ts';

/** The status of each code. */
const STATUS: Readonly<Record<ProblemCode, number>> = {
  invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  foreign: 403,
  'not-found': 404,
  'not-allowed': 405,
  refused: 409,
  busy: 429,
  unavailable: 503,
  internal: 500,
};

/** Why a request to the administration API fails; the message is for the operator. */
export class AdminProblem extends Error {
  override readonly name = 'AdminProblem';
  readonly code: ProblemCode;
  readonly headers: OutgoingHttpHeaders;

  constructor(code: ProblemCode, message: string, headers: OutgoingHttpHeaders = {}) {
    super(message);
    this.code = code;
    this.headers = headers;
  }

  get status(): number {
    return STATUS[this.code];
  }

  toJSON(): ProblemDocument {
    return { error: { code: this.code, message: this.message } };
  }
}
