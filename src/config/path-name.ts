/**
 * The name of an upstream in a path, which cannot contain a colon (distribution's grammar): its name or, if that has a
 * port, its first alias without one. `undefined` if there is none.
 */
export function pathName({
  name,
  aliases,
}: {
  readonly name: string;
  readonly aliases: readonly string[];
}): string | undefined {
  return [name, ...aliases].find(each => !each.includes(':'));
}
