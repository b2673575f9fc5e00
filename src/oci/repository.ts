/** A repository and its origin. Rights, links and tags are stored under both parts. */
export interface Repository {
  /** The name of the configured upstream (`docker.io`), or '' for a hosted repository. */
  readonly upstream: string;
  /** The name within the upstream, or among hosted repositories: `library/nginx`, `team-a/app`. */
  readonly name: string;
}

/**
 * The name as people and logs write it: `docker.io/library/nginx`, `team-a/app`. Unique, since no hosted prefix equals
 * an upstream.
 */
export function repositoryText(repository: Repository): string {
  return repository.upstream === '' ? repository.name : `${repository.upstream}/${repository.name}`;
}
