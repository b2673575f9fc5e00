/** A JSON object of somebody else's, in which every field may be anything. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** The object that `text` spells; `undefined` for another value, or for what is not JSON. The caller bounds the length. */
export function parseJsonObject(text: string | Uint8Array): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(typeof text === 'string' ? text : Buffer.from(text).toString());
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a value is an object with fields (not an array, not null). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * A member's name as Go's decoder compares it, which reads names in any case: by simple case folding, in which two letters
 * beyond ASCII count as `s` and `k`.
 */
export function foldName(name: string): string {
  return name.replaceAll('\u017f', 's').replaceAll('\u212a', 'k').toLowerCase();
}
