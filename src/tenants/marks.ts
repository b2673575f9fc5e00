/** When upstream took or refused a credential last, by its id. */
export type Marks = Map<string, { readonly usedAtMs?: number; readonly refusedAtMs?: number }>;

/** The last of several credentials, as a `SecretState` says it. */
export function lastMarks(
  marks: Marks,
  credentialIds: Iterable<string>,
): { readonly lastUsedAtMs?: number; readonly lastRefusedAtMs?: number } {
  const found = [...credentialIds].flatMap(id => marks.get(id) ?? []);
  const used = found.flatMap(({ usedAtMs }) => usedAtMs ?? []);
  const refused = found.flatMap(({ refusedAtMs }) => refusedAtMs ?? []);
  return {
    ...(used.length > 0 && { lastUsedAtMs: Math.max(...used) }),
    ...(refused.length > 0 && { lastRefusedAtMs: Math.max(...refused) }),
  };
}
