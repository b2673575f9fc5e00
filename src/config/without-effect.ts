import type { Config } from './config.ts';
import type { Problem } from './problems.ts';

/**
 * Options that are set but have no effect because of others. They are warnings rather than errors, so that a file that
 * works today also works with the next version.
 */
export function optionsWithoutEffect({ hosted, upstreams, origin }: Config): readonly Problem[] {
  const problems: Problem[] = [...upstreams.values()].flatMap(({ name, caFile, insecure }) =>
    insecure && caFile !== undefined
      ? {
          path: ['upstreams', name, 'caFile'],
          value: caFile,
          message: 'is not used with insecure: true, which accepts any certificate: remove one of them',
        }
      : [],
  );
  if (hosted.anonymous !== 'none' && hosted.prefixes.length === 0) {
    const message =
      'has no effect without hosted.prefixes, since it is for repositories below these, not for those of tenants: remove it';
    problems.push({ path: ['hosted', 'anonymous'], value: hosted.anonymous, message });
  }
  return problems.map(problem => ({ ...problem, source: origin.sourceOf(problem.path) }));
}
