type Token =
  | { readonly kind: 'star' }
  | { readonly kind: 'any' }
  | {
      readonly kind: 'set';
      readonly negated: boolean;
      readonly ranges: readonly (readonly [string, string])[];
    };

/**
 * A pattern for one label of a host name, with the rules of Go's `filepath.Match`: `*` any run, `?` any character,
 * `[a-c]` and `[^a-c]` one of a set, `\` makes the next character literal. Takes at most time proportional to the
 * product of both lengths.
 */
export class LabelGlob {
  /** `undefined` for a malformed pattern, which matches nothing. */
  readonly #tokens: readonly Token[] | undefined;

  constructor(pattern: string) {
    this.#tokens = parse(Array.from(pattern));
  }

  matches(label: string): boolean {
    return this.#tokens !== undefined && matchTokens(this.#tokens, Array.from(label));
  }
}

/** Whether `label` may match other labels than itself. */
export function isGlob(label: string): boolean {
  return /[*?[\\]/.test(label);
}

/** On a mismatch, goes back to the last star and lets it match one more character. */
function matchTokens(tokens: readonly Token[], characters: readonly string[]): boolean {
  let token = 0;
  let at = 0;
  let star: { token: number; at: number } | undefined;
  while (at < characters.length) {
    const current = tokens[token];
    if (current?.kind === 'star') {
      star = { token, at };
      token += 1;
    } else if (current !== undefined && accepts(current, characters[at] ?? '')) {
      token += 1;
      at += 1;
    } else if (star !== undefined) {
      star.at += 1;
      token = star.token + 1;
      at = star.at;
    } else {
      return false;
    }
  }
  return tokens.slice(token).every(({ kind }) => kind === 'star');
}

function accepts(token: Token, character: string): boolean {
  if (token.kind !== 'set') return true;
  return token.ranges.some(([low, high]) => low <= character && character <= high) !== token.negated;
}

function parse(pattern: readonly string[]): readonly Token[] | undefined {
  const tokens: Token[] = [];
  let at = 0;
  while (at < pattern.length) {
    const character = pattern[at] ?? '';
    if (character === '*' || character === '?') {
      tokens.push({ kind: character === '*' ? 'star' : 'any' });
      at += 1;
    } else if (character === '[') {
      const set = parseSet(pattern, at + 1);
      if (set === undefined) return undefined;
      tokens.push(set.token);
      at = set.next;
    } else {
      if (character === '\\') at += 1;
      const literal = pattern[at];
      if (literal === undefined) return undefined;
      tokens.push({ kind: 'set', negated: false, ranges: [[literal, literal]] });
      at += 1;
    }
  }
  return tokens;
}

/**
 * The set whose first character is at `start`, and where the pattern continues; `undefined` if it is empty or not closed.
 */
function parseSet(pattern: readonly string[], start: number): { token: Token; next: number } | undefined {
  const ranges: [string, string][] = [];
  const negated = pattern[start] === '^';
  let at = negated ? start + 1 : start;
  while (pattern[at] !== ']' || ranges.length === 0) {
    const low = parseMember(pattern, at);
    if (low === undefined) return undefined;
    const high = pattern[low.next] === '-' ? parseMember(pattern, low.next + 1) : low;
    if (high === undefined) return undefined;
    ranges.push([low.character, high.character]);
    at = high.next;
  }
  return { token: { kind: 'set', negated, ranges }, next: at + 1 };
}

function parseMember(
  pattern: readonly string[],
  at: number,
): { character: string; next: number } | undefined {
  if (pattern[at] === '-' || pattern[at] === ']') return undefined;
  const escape = pattern[at] === '\\' ? 1 : 0;
  const character = pattern[at + escape];
  return character === undefined ? undefined : { character, next: at + escape + 1 };
}
