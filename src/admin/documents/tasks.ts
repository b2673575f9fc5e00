import { z } from '../../config/fields.ts';
import { bytes, amount, arrayOf, time } from './parts.ts';

/** A long operation, which continues when nobody watches it. */
export const taskSchema = z.object({
  id: z.string(),
  action: z.enum(['pull', 'rm', 'gc', 'scrub']),
  subject: z.string().nullable().describe('The image, if it is about one'),
  by: z.string().describe('Who began it'),
  state: z.enum(['running', 'done', 'failed', 'cancelled']),
  started: time,
  ended: time.nullable(),
  step: z.string().nullable().describe('What is being done, for people'),
  items: amount,
  bytes,
  totalBytes: bytes.nullable().describe('How many bytes there will be; null if that is not known'),
  message: z.string().nullable().describe('The result, or the reason for the failure, for people'),
  result: z.record(z.string(), z.unknown()).nullable().describe('As the command prints with --json'),
});
export type TaskDocument = z.output<typeof taskSchema>;

/** Those that run and the last ones that ended, the latest first. */
export const tasksSchema = z.object({ entries: arrayOf(taskSchema) });
export type TasksDocument = z.output<typeof tasksSchema>;
