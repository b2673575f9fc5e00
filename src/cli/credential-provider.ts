import type { Readable } from 'node:stream';
import { ownEnvironment } from '../config/environment.ts';
import { collectBytes } from '../lib/collect-bytes.ts';
import { type JsonObject, parseJsonObject } from '../lib/json.ts';
import { readTextFile } from '../lib/text-file.ts';
import { type Command, CommandError, EXIT, type Input, textOption } from './command.ts';

/**
 * `entrepot credential-provider`: an exec plugin of the kubelet (credentialprovider.kubelet.k8s.io). It gives a node
 * that pulls its images through this registry the registry's own credentials for them.
 */
export const credentialProvider: Command = {
  name: 'credential-provider',
  summary: 'provide credentials to the kubelet, as its exec plugin',
  description:
    'For the kubelet (--image-credential-provider-config, --image-credential-provider-bin-dir): reads a ' +
    "CredentialProviderRequest from standard input and answers with this registry's credentials. A service-account " +
    'token in the request (tokenAttributes) is used as the password; without one, --password-file or ' +
    '--password-env provides it. config/examples/credential-provider has the configurations. The runtime offers these ' +
    'credentials to every server that it asks for the image: write its files with entrepot hosts --credential-provider.',
  options: [
    {
      flags: '--username <name>',
      description: 'user name of the credentials (default: with a token: serviceaccount)',
    },
    { flags: '--password-file <file>', description: 'file that holds the password' },
    { flags: '--password-env <variable>', description: 'environment variable that holds the password' },
  ],
  examples: [
    ['entrepot credential-provider', 'with pod tokens'],
    [
      'entrepot credential-provider --username node --password-file /etc/entrepot/password',
      'one credential for the whole node',
    ],
  ],
  run: async (input, io) => {
    const request = parseCredentialRequest(await readAll(process.stdin));
    const answer = answerCredentialRequest(request, await staticCredential(input), Date.now());
    io.out(`${JSON.stringify(answer)}\n`);
    return EXIT.done;
  },
};

/** A CredentialProviderRequest of the kubelet. */
export interface CredentialRequest {
  readonly apiVersion: string;
  /** A repository, without tag and digest. */
  readonly image: string;
  /** The token of the pod's ServiceAccount, with the audience in the kubelet's configuration. */
  readonly token: string | undefined;
}

/** A credential from the command line, for requests without a token. */
export interface StaticCredential {
  readonly username: string;
  readonly password: string;
}

/** A request contains an image, a token and perhaps some annotations. */
const MAX_REQUEST_BYTES = 1024 * 1024;

const API_VERSION = /^credentialprovider\.kubelet\.k8s\.io\/v1(?:alpha1|beta1)?$/;

/** A user name is required but ignored: the token identifies the account. */
const TOKEN_USERNAME = 'serviceaccount';

/** A response expires this long before its token does, so that the pull that it is for can still log in. */
const TOKEN_MARGIN_MS = 60_000;

/** Parses a request; throws CommandError. Unknown members of later versions are ignored. */
export function parseCredentialRequest(text: string): CredentialRequest {
  const { kind, apiVersion, image, serviceAccountToken } = parseJsonObject(text) ?? {};
  const isRequest =
    kind === 'CredentialProviderRequest' && typeof apiVersion === 'string' && API_VERSION.test(apiVersion);
  if (!isRequest || typeof image !== 'string' || image === '') {
    throw new CommandError('standard input is not a CredentialProviderRequest of a kubelet', EXIT.usage);
  }
  const isToken = typeof serviceAccountToken === 'string' && serviceAccountToken !== '';
  return { apiVersion, image, token: isToken ? serviceAccountToken : undefined };
}

/**
 * The CredentialProviderResponse: one credential for the registry of the image, cached no longer than a token lives.
 * Throws CommandError if there is none.
 */
export function answerCredentialRequest(
  { apiVersion, image, token }: CredentialRequest,
  fixed: StaticCredential | undefined,
  nowMs: number,
): JsonObject {
  const credential =
    token === undefined ? fixed : { username: fixed?.username ?? TOKEN_USERNAME, password: token };
  if (credential === undefined) {
    throw new CommandError(
      'the request has no service-account token (tokenAttributes), and neither --password-file nor --password-env is given',
    );
  }
  const [registry = image] = image.split('/', 1);
  return {
    kind: 'CredentialProviderResponse',
    apiVersion,
    cacheKeyType: 'Registry',
    ...(token !== undefined && { cacheDuration: `${tokenSeconds(token, nowMs)}s` }),
    auth: { [registry]: credential },
  };
}

/** How long to cache a token; 0, for not at all, if it has no expiry. */
function tokenSeconds(token: string, nowMs: number): number {
  const claims = parseJsonObject(Buffer.from(token.split('.')[1] ?? '', 'base64url'));
  const endsAtS = claims?.['exp'];
  if (typeof endsAtS !== 'number') return 0;
  return Math.max(0, Math.floor((endsAtS * 1000 - nowMs - TOKEN_MARGIN_MS) / 1000));
}

async function staticCredential(input: Input): Promise<StaticCredential | undefined> {
  const username = textOption(input, 'username');
  const file = textOption(input, 'passwordFile');
  const variable = textOption(input, 'passwordEnv');
  if (file === undefined && variable === undefined) return undefined;
  if (username === undefined || (file !== undefined && variable !== undefined)) {
    throw new CommandError('expected --username and one of --password-file and --password-env', EXIT.usage);
  }
  const text =
    file === undefined ? ownEnvironment()[variable ?? ''] : await readTextFile(file, MAX_REQUEST_BYTES);
  if (text === undefined) {
    throw new CommandError(`${file ?? variable} ${file === undefined ? 'is not set' : 'does not exist'}`);
  }
  const password = text.replace(/\r?\n$/, '');
  if (password === '') throw new CommandError(`${file ?? variable} contains no password`);
  return { username, password };
}

async function readAll(input: Readable): Promise<string> {
  return (await collectBytes(input, MAX_REQUEST_BYTES, tooLong)).toString();
}

function tooLong(): CommandError {
  return new CommandError('standard input is too long for a request', EXIT.usage);
}
