const expressions = new Map<string, RegExp>();

/** Whether `name`, of components between slashes, fits `pattern`, in which `*` is anything but `/`, and `**` anything. */
export function matchesName(pattern: string, name: string): boolean {
  let expression = expressions.get(pattern);
  if (expression === undefined) {
    const source = pattern
      .split(/(\*\*|\*)/)
      .map(part => (part === '**' ? '.*' : part === '*' ? '[^/]*' : part.replaceAll('.', String.raw`\.`)));
    expression = new RegExp(`^${source.join('')}$`);
    // As many as the configuration has patterns: no client brings one.
    expressions.set(pattern, expression);
  }
  return expression.test(name);
}
