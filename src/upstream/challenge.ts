/** One challenge of a `WWW-Authenticate` header. Names are in lower case, values are unescaped. */
export interface Challenge {
  readonly scheme: string;
  readonly parameters: ReadonlyMap<string, string>;
}

/** Registries send one or two challenges of some hundred characters, longer with scopes. */
const MAX_HEADER_LENGTH = 8 * 1024;

const SEPARATORS = /[\s,]*/y;
const TOKEN = /[!#$%&'*+\-.^_`|~0-9A-Za-z]+/y;
const EQUALS = /\s*=\s*/y;
const QUOTED = /"((?:[^"\\]|\\.)*)"/y;
/** RFC 9110, 11.2: what Negotiate and others have instead of parameters. It ends the challenge. */
const TOKEN68 = /\s+[0-9A-Za-z\-._~+/]+=*(?=\s*(?:,|$))/y;

/**
 * The challenges of all `WWW-Authenticate` lines, in order (RFC 9110, 11.6.1). A line may have several, separated by
 * the same commas as their parameters; a token without `=` begins a new one. Everything after a syntax error is
 * ignored.
 */
export function parseChallenges(header: string | readonly string[] | undefined): readonly Challenge[] {
  return [header ?? []].flat().flatMap(parseLine);
}

function parseLine(line: string): Challenge[] {
  const challenges: Challenge[] = [];
  let parameters: Map<string, string> | undefined;
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | undefined => {
    pattern.lastIndex = at;
    const match = pattern.exec(line) ?? undefined;
    if (match !== undefined) at = pattern.lastIndex;
    return match;
  };
  if (line.length > MAX_HEADER_LENGTH) return challenges;
  for (;;) {
    take(SEPARATORS);
    const name = take(TOKEN)?.[0].toLowerCase();
    if (name === undefined) return challenges;
    if (take(EQUALS) === undefined) {
      parameters = new Map();
      challenges.push({ scheme: name, parameters });
      take(TOKEN68);
      continue;
    }
    const quoted = take(QUOTED)?.[1];
    const value = quoted === undefined ? take(TOKEN)?.[0] : quoted.replaceAll(/\\(.)/g, '$1');
    if (value === undefined || parameters === undefined) return challenges;
    // The first one counts: a second `realm` must not replace the one that was checked.
    if (!parameters.has(name)) parameters.set(name, value);
  }
}
