import { z } from '../../config/fields.ts';

/** The answer to every request that fails. */
export const problemSchema = z.object({
  error: z.object({
    code: z.enum([
      'invalid',
      'unauthorized',
      'forbidden',
      'foreign',
      'not-found',
      'not-allowed',
      'refused',
      'busy',
      'unavailable',
      'internal',
    ]),
    message: z.string().describe('What is wrong and what to do about it, for people'),
  }),
});
export type ProblemDocument = z.output<typeof problemSchema>;
export type ProblemCode = ProblemDocument['error']['code'];
