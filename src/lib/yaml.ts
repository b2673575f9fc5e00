import {
  type Document,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type ParsedNode,
  parseAllDocuments,
  parseDocument,
  stringify,
} from 'yaml';

/** More than any configuration, or list of Kubernetes objects, that people write. */
const MAX_YAML_BYTES = 4 * 2 ** 20;

/** Aliases may repeat a block here and there; a document that multiplies itself is an attack ("billion laughs"). */
const MAX_ALIAS_EXPANSIONS = 100;

/** One document of a YAML stream. */
export interface YamlDocument {
  /** Plain maps, lists and scalars; `null` for an empty document. */
  readonly value: unknown;
  /** The line, from 1, on which the value (in a map: its key) at `path` starts; `undefined` if there is none. */
  readonly lineOf: (path: readonly PropertyKey[]) => number | undefined;
}

/** The text is not YAML, or exceeds a limit. */
export class YamlError extends Error {
  override readonly name = 'YamlError';
  /** From 1; `undefined` if the error has no position. */
  readonly line: number | undefined;

  constructor(message: string, line?: number, options?: ErrorOptions) {
    super(message, options);
    this.line = line;
  }
}

export interface YamlLimits {
  readonly maxBytes?: number;
  /** If set, the last of repeated keys counts, as in Kubernetes; by default they are an error. */
  readonly mayRepeatKeys?: boolean;
}

/** All documents of `text`, in order; JSON is YAML, too. Throws YamlError. */
export function parseYamlDocuments(
  text: string,
  { maxBytes = MAX_YAML_BYTES, mayRepeatKeys = false }: YamlLimits = {},
): YamlDocument[] {
  if (Buffer.byteLength(text) > maxBytes) {
    throw new YamlError(`the text is larger than ${maxBytes} bytes`);
  }
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, {
    lineCounter: lines,
    prettyErrors: false,
    logLevel: 'silent',
    uniqueKeys: !mayRepeatKeys,
  });
  return 'empty' in documents ? [] : documents.map(document => toYamlDocument(document, lines));
}

/** The only document of `text`; its value is `null` if it is empty. Throws YamlError if there are several. */
export function parseYaml(text: string, limits?: YamlLimits): YamlDocument {
  const documents = parseYamlDocuments(text, limits);
  if (documents.length > 1) {
    throw new YamlError('expected one document, but there are several (separated by ---)');
  }
  return documents[0] ?? { value: null, lineOf: () => undefined };
}

/**
 * `text` with each value set at its path of keys, creating maps if necessary; comments, order and everything else are
 * kept. An empty text is an empty document. Throws YamlError if it cannot be parsed, or has something other than a map
 * on the way.
 */
export function editYaml(
  text: string,
  edits: readonly { readonly path: readonly string[]; readonly value: unknown }[],
): string {
  parseYaml(text);
  const document = parseDocument(text, { logLevel: 'silent' });
  try {
    for (const { path, value } of edits) document.setIn(path, document.createNode(value));
  } catch (error) {
    throw new YamlError(error instanceof Error ? error.message : String(error), undefined, { cause: error });
  }
  return document.toString({ lineWidth: 0 });
}

/** Plain data as YAML text, in the order of its keys. */
export function formatYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0 });
}

function toYamlDocument(document: Document.Parsed, lines: LineCounter): YamlDocument {
  const [error] = document.errors;
  if (error !== undefined) {
    throw new YamlError(error.message, lines.linePos(error.pos[0]).line);
  }
  return {
    value: expand(document),
    lineOf: path => {
      const offset = offsetOf(document.contents, path);
      return offset === undefined ? undefined : lines.linePos(offset).line;
    },
  };
}

function expand(document: Document.Parsed): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIAS_EXPANSIONS });
  } catch (error) {
    throw new YamlError(error instanceof Error ? error.message : String(error), undefined, { cause: error });
  }
}

function offsetOf(root: ParsedNode | null, path: readonly PropertyKey[]): number | undefined {
  let node: unknown = root;
  let offset = root?.range[0];
  for (const step of path) {
    if (isMap<ParsedNode, ParsedNode>(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step));
      offset = pair?.key.range[0];
      node = pair?.value;
    } else if (isSeq<ParsedNode>(node)) {
      const item = node.items[Number(step)];
      offset = item?.range[0];
      node = item;
    } else {
      return undefined;
    }
  }
  return offset;
}
