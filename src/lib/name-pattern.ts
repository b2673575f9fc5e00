const expressions = new Map<string, RegExp>();

/**
 * Whether `name`, of components separated by slashes, matches `pattern`, in which `*` matches anything but `/`, and
 * `**` matches anything.
 */
export function matchesName(pattern: string, name: string): boolean {
  let expression = expressions.get(pattern);
  if (expression === undefined) {
    const source = pattern
      .split(/(\*\*|\*)/)
      .map(part => (part === '**' ? '.*' : part === '*' ? '[^/]*' : part.replaceAll('.', String.raw`\.`)));
    expression = new RegExp(`^${source.join('')}$`);
    // As many as the configuration has patterns: clients cannot add any.
    expressions.set(pattern, expression);
  }
  return expression.test(name);
}
