// Logins, repositories, and a summary of what a subject may pull, for the tests of this folder.
import { type AccessWorld, SENDER, SERVER } from '../../test/support/access-world.ts';
import { basic, type Login } from '../../test/support/tenants.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { LoginAnswer } from './access.ts';
import { parseScopes } from './scope.ts';
import type { Sender, Subject } from './subject.ts';

/** Logins for Docker Hub. */
export const HUB_A: Login = ['hub-a', 'hub-a-password'];
export const HUB_B: Login = ['hub-b', 'hub-b-password'];
/** A login for this registry. */
export const OURS: Login = ['robot', 'robot-password'];
export const NGINX: Repository = { upstream: 'docker.io', name: 'library/nginx' };
export const APP: Repository = { upstream: 'ghcr.io', name: 'org/app' };
export const HOSTED: Repository = { upstream: '', name: 'team-a/app' };
export const HOUR_MS = 3_600_000;

/** What `pulled` returns for an anonymous requester that may pull. */
export const ANONYMOUSLY = { id: 'anonymous', tried: [undefined] };

/**
 * The requester and the credentials that are tried upstream when `subject` pulls from `repository`, or the code of the
 * refusal.
 */
export async function pulled(subject: Subject, repository = NGINX): Promise<unknown> {
  try {
    return summary(await subject.authorize(repository, 'pull'));
  } catch (error) {
    return error instanceof OciError ? error.code : error;
  }
}

function summary({ requester, credentials, proved }: Right): object {
  return { id: requester.id, tried: credentials.map(credential => credential?.username), proved };
}

/** A token as `/token` issues it. */
export function tokenOf(
  world: AccessWorld,
  login: Login | undefined,
  scope: string,
  sender: Partial<Sender> = {},
): Promise<LoginAnswer> {
  return world.access.login(
    { ...SENDER, ...(login === undefined ? {} : basic(login)), ...sender },
    { password: undefined, service: SERVER, scopes: parseScopes([scope]), resolve: repositoryNamed },
  );
}

function repositoryNamed(name: string): Repository | undefined {
  const [first = '', ...rest] = name.split('/');
  if (first === 'team-a' || first === 'team-b') return { upstream: '', name };
  return rest.length > 0 && first.includes('.') ? { upstream: first, name: rest.join('/') } : undefined;
}

export function withToken(world: AccessWorld, token: string, sender: Partial<Sender> = {}): Promise<Subject> {
  return world.access.authenticate({ ...SENDER, ...sender, authorization: `Bearer ${token}` });
}
