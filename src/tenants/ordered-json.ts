/** A JSON value as written: members keep their order and duplicates. */
export type OrderedJson = null | boolean | number | string | readonly OrderedJson[] | JsonMembers;

/** The members of a JSON object, as written. */
export class JsonMembers {
  readonly entries: readonly (readonly [name: string, value: OrderedJson])[];

  constructor(entries: readonly (readonly [name: string, value: OrderedJson])[]) {
    this.entries = entries;
  }
}

/** The text is not JSON. The message says where, but quotes nothing, since the text may contain passwords. */
export class InvalidJson extends Error {
  constructor(position: number) {
    super(`invalid JSON at character ${position}`);
    this.name = 'InvalidJson';
  }
}

/** Deeper than any configuration, and no danger to the stack. */
export const MAX_DEPTH = 200;

const BLANK = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const LITERALS: readonly (readonly [text: string, value: null | boolean])[] = [
  ['null', null],
  ['true', true],
  ['false', false],
];

/**
 * Parses RFC 8259 strictly, for formats whose readers are written in Go: there duplicates have a meaning that
 * `JSON.parse` loses. Nothing may follow the value.
 */
export function parseOrderedJson(text: string): OrderedJson {
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.end();
  return value;
}

class Reader {
  readonly #text: string;
  #position = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): OrderedJson {
    if (depth > MAX_DEPTH) throw new InvalidJson(this.#position);
    this.#match(BLANK);
    const first = this.#text[this.#position];
    if (first === '{') return this.#object(depth);
    if (first === '[') return this.#array(depth);
    if (first === '"') return this.#string();
    const literal = LITERALS.find(([word]) => this.#text.startsWith(word, this.#position));
    if (literal !== undefined) {
      this.#position += literal[0].length;
      return literal[1];
    }
    return Number(this.#match(NUMBER));
  }

  end(): void {
    this.#match(BLANK);
    if (this.#position !== this.#text.length) throw new InvalidJson(this.#position);
  }

  #object(depth: number): JsonMembers {
    const entries: (readonly [string, OrderedJson])[] = [];
    this.#list('{', '}', () => {
      const name = this.#string();
      this.#match(BLANK);
      this.#expect(':');
      entries.push([name, this.value(depth + 1)]);
    });
    return new JsonMembers(entries);
  }

  #array(depth: number): readonly OrderedJson[] {
    const values: OrderedJson[] = [];
    this.#list('[', ']', () => values.push(this.value(depth + 1)));
    return values;
  }

  #list(open: string, close: string, readItem: () => void): void {
    this.#expect(open);
    this.#match(BLANK);
    if (this.#skip(close)) return;
    do {
      this.#match(BLANK);
      readItem();
      this.#match(BLANK);
    } while (this.#skip(','));
    this.#expect(close);
  }

  #string(): string {
    const start = this.#position;
    this.#expect('"');
    while (this.#text[this.#position] !== '"') {
      this.#position += this.#text[this.#position] === '\\' ? 2 : 1;
      if (this.#position >= this.#text.length) throw new InvalidJson(start);
    }
    this.#position += 1;
    return unquote(this.#text.slice(start, this.#position), start);
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const [found] = pattern.exec(this.#text) ?? [];
    if (found === undefined) throw new InvalidJson(this.#position);
    this.#position += found.length;
    return found;
  }

  #skip(character: string): boolean {
    if (this.#text[this.#position] !== character) return false;
    this.#position += 1;
    return true;
  }

  #expect(character: string): void {
    if (!this.#skip(character)) throw new InvalidJson(this.#position);
  }
}

/** The string of a literal; as in Go, a lone surrogate becomes the replacement character. */
function unquote(literal: string, position: number): string {
  try {
    return String(JSON.parse(literal)).replace(/\p{Surrogate}/gu, '\ufffd');
  } catch {
    throw new InvalidJson(position);
  }
}
