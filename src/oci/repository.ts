/** A repository and where it comes from. Its rights, links and tags are kept under both parts. */
export interface Repository {
  /** The configured upstream's name (`docker.io`), or '' for a repository that lives here. */
  readonly upstream: string;
  /** The OCI name within it: `library/nginx`, `team-a/app`. */
  readonly name: string;
}

/** How people and logs name it: `docker.io/library/nginx`, `team-a/app`. Unique, as prefixes never equal upstreams. */
export function repositoryText(repository: Repository): string {
  return repository.upstream === '' ? repository.name : `${repository.upstream}/${repository.name}`;
}
