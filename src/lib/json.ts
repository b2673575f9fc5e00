/** A JSON object from outside, in which every member may be anything. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** The object in the JSON `text`; `undefined` if it is another value or invalid. The caller limits the length. */
export function parseJsonObject(text: string | Uint8Array): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(typeof text === 'string' ? text : Buffer.from(text).toString());
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a value is an object (not an array, not null). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * A member's name in the form in which Go's decoder compares it: by simple case folding, in which two letters beyond
 * ASCII equal `s` and `k`. `toLowerCase` knows the second (U+212A).
 */
export function foldName(name: string): string {
  return name.toLowerCase().replaceAll('\u017f', 's');
}
