import { fileJsonSchema, type JsonSchema } from '../../src/config/schema.ts';

/** As much of JSON schema as the tables show besides. */
type Shown = JsonSchema & { readonly default?: unknown; readonly enum?: readonly string[] };

const BEGIN = '<!-- options: generated from src/config/schema.ts by `npm run schema` -->';
const END = '<!-- end of options -->';

/** `page` with the tables of all options between its markers. */
export function withOptions(page: string): string {
  const [before, rest] = split(page, BEGIN);
  const [, after] = split(rest, END);
  return `${before}${BEGIN}\n\n${optionTables()}\n${END}${after}`;
}

function split(text: string, marker: string): readonly [string, string] {
  const at = text.indexOf(marker);
  if (at < 0) throw new Error(`there is no line ${marker}`);
  return [text.slice(0, at), text.slice(at + marker.length)];
}

/** A table for each section of the file; before them one of the keys that are no section. */
function optionTables(): string {
  const keys = Object.entries(fileJsonSchema().properties ?? {});
  const isSection = ([, schema]: (typeof keys)[number]) => optionsBelow('', schema).length > 0;
  const single = keys.filter(key => !isSection(key)).map(([name, schema]) => rowOf(name, schema));
  const sections = keys
    .filter(isSection)
    .map(
      ([name, schema]) => `### \`${name}\`\n\n${schema.description}.\n\n${table(optionsBelow(name, schema))}`,
    );
  return [`### Keys outside a section\n\n${table(single)}`, ...sections].join('\n');
}

function table(rows: readonly string[]): string {
  return ['| option | value | default | meaning |', '| --- | --- | --- | --- |', ...rows, ''].join('\n');
}

function optionsBelow(path: string, schema: JsonSchema): readonly string[] {
  const { suffix, properties } = membersOf(schema);
  return Object.entries(properties).flatMap(([key, child]) => {
    const name = `${path}${suffix}.${key}`;
    return [rowOf(name, child), ...optionsBelow(name, child)];
  });
}

/** The keys below a value, and how they are reached: of itself, of each entry of a list, of each value of a map. */
function membersOf(schema: JsonSchema): { suffix: string; properties: Record<string, JsonSchema> } {
  const { properties, additionalProperties, items, anyOf = [] } = schema;
  if (properties !== undefined) return { suffix: '', properties };
  if (items !== undefined) return below('[]', items);
  if (typeof additionalProperties === 'object') return below('.NAME', additionalProperties);
  const found = anyOf.map(membersOf);
  // Where one entry may stand alone, the list says it all.
  return (
    found.findLast(({ properties: own }) => Object.keys(own).length > 0) ?? { suffix: '', properties: {} }
  );
}

function below(suffix: string, schema: JsonSchema): ReturnType<typeof membersOf> {
  const members = membersOf(schema);
  return { ...members, suffix: `${suffix}${members.suffix}` };
}

function rowOf(name: string, schema: Shown): string {
  const { default: given, description = '' } = schema;
  const hasDefault = given !== undefined && JSON.stringify(given) !== '{}';
  const cells = [code(name), valueOf(schema), hasDefault ? code(written(given)) : '', description];
  return `| ${cells.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

function written(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function valueOf(schema: Shown): string {
  const { enum: words, const: only, type, items, anyOf } = schema;
  if (words !== undefined) return words.map(code).join(', ');
  if (only !== undefined) return code(written(only));
  if (anyOf !== undefined) {
    const kinds = [...new Set(anyOf.map(valueOf))];
    // A list of which one entry may stand alone.
    return kinds.includes('list') ? 'list' : kinds.join(' or ');
  }
  if (type === 'array' || items !== undefined) return 'list';
  if (type === 'boolean') return '`true`, `false`';
  if (type === 'integer') return 'number';
  return type === 'object' ? 'map' : 'text';
}

function code(text: string): string {
  return `\`${text}\``;
}
