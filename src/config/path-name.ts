/**
 * What an upstream is called in a path, where no colon may stand (distribution's grammar): its name or, if that has a
 * port, the first of its aliases that has none. `undefined`: nothing.
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
