import { foldName } from '../lib/json.ts';

/** The member of a descriptor or manifest that is a map with arbitrary keys, which may differ only by case. */
const MAP = 'annotations';

interface Level {
  /** `undefined` in an array. */
  readonly names: Set<string> | undefined;
  /** Keys are compared case-sensitively. */
  readonly isMap: boolean;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;

/**
 * The name of a member that occurs twice in one object of `text`, which must be valid JSON; `undefined` if there is
 * none. Readers disagree about duplicates: JavaScript keeps the last, others the first, and Go ignores case. A client
 * could see other layers than those that we check and store.
 */
export function duplicateMember(text: string): string | undefined {
  const levels: Level[] = [];
  let lastName = '';
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x7b) levels.push({ names: new Set(), isMap: lastName === MAP });
    else if (code === 0x5b) levels.push({ names: undefined, isMap: false });
    else if (code === 0x7d || code === 0x5d) levels.pop();
    // The last string before the next structural character is a name only in an object, and directly before its value.
    if (code === 0x2c || code === 0x5b || code === 0x7b) lastName = '';
    if (code === QUOTE) {
      const end = endOfString(text, at);
      const level = levels.at(-1);
      if (level?.names !== undefined && isName(text, end)) {
        const name = nameOf(text.slice(at, end), level.isMap);
        if (level.names.has(name)) return name;
        level.names.add(name);
        lastName = name;
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** The position after the closing quote of the string that begins at `at`. */
function endOfString(text: string, at: number): number {
  for (let end = at + 1; end < text.length; end += 1) {
    const code = text.charCodeAt(end);
    if (code === BACKSLASH) end += 1;
    else if (code === QUOTE) return end + 1;
  }
  return text.length;
}

/** Whether a colon follows: only member names have one. */
function isName(text: string, end: number): boolean {
  let at = end;
  while (text.charCodeAt(at) <= 0x20) at += 1;
  return text.charCodeAt(at) === COLON;
}

function nameOf(literal: string, isMap: boolean): string {
  const name = literal.includes('\\') ? String(JSON.parse(literal)) : literal.slice(1, -1);
  return isMap ? name : foldName(name);
}
