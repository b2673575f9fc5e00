import { MAX_OVERLAP_MS } from '../admin/documents/actions.ts';
import { issueRequest, TenantRequestInvalid } from '../admin/tenant-changes.ts';
import type { Config } from '../config/config.ts';
import { DURATION_FORM, formatDuration, parseDuration } from '../lib/units.ts';
import { formatYaml } from '../lib/yaml.ts';
import type { Credential } from '../oci/credential.ts';
import { warningLine } from '../ops/command-log.ts';
import { issuedSecret } from '../tenants/issued-secret.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  type Io,
  jsonOption,
  textOption,
} from './command.ts';
import { requireTenant, TENANT } from './tenant-name.ts';
import { withParts } from './with-parts.ts';

/** Longer than it takes to roll out a changed Secret, and short enough for one that leaked. */
const DEFAULT_OVERLAP = '1h';

const SECRET_OPTIONS = [
  {
    flags: '--server <host>',
    description:
      'this registry as clients name it, optionally with a path (default: the first of server.serverNames)',
  },
  { flags: '--read-only', description: 'for pulling only' },
  { flags: '--secret-name <name>', description: 'name of the Secret (default: entrepot)' },
  jsonOption('the Secret, which kubectl accepts like YAML'),
  CONFIG_OPTION,
];

/** `entrepot tenant secret`: issues a credential, and prints it as a manifest. */
export const tenantSecret: Command = {
  name: 'tenant secret',
  summary: 'issue a credential, and print it as a Secret manifest',
  description:
    'Issues a credential of this registry to a tenant and prints a Kubernetes Secret with it. The password is ' +
    'shown only once: only a hash of it is stored. A path after the host limits the credential to repositories below it.',
  arguments: [TENANT],
  options: SECRET_OPTIONS,
  makesStore: 'where-named',
  examples: [
    [
      'entrepot tenant secret team-a --server registry.example | kubectl apply -f -',
      'create it in the namespace team-a',
    ],
    ['entrepot tenant secret team-a --server registry.example --read-only', 'for clients that only pull'],
  ],
  run: (input, io) =>
    withParts(input, io, async parts => {
      const [tenant = ''] = input.arguments;
      const { presence: during } = parts.metadata;
      await requireTenant(parts, tenant);
      const request = requestOf(tenant, input, io, parts.config);
      print(await parts.issuer.issue(request, { during }), request, input, io);
      return EXIT.done;
    }),
};

/** `entrepot tenant rotate`: issues a credential, and ends the earlier ones. */
export const tenantRotate: Command = {
  name: 'tenant rotate',
  summary: 'issue a new credential, and revoke the earlier ones after a while',
  description:
    'Like entrepot tenant secret; credentials issued earlier to the tenant for the same server end after the overlap.',
  arguments: [TENANT],
  options: [
    ...SECRET_OPTIONS,
    {
      flags: '--overlap <duration>',
      description: `how long the earlier ones remain valid (default: ${DEFAULT_OVERLAP})`,
    },
  ],
  makesStore: 'where-named',
  examples: [
    [
      'entrepot tenant rotate team-a --overlap 24h | kubectl apply -f -',
      'the old one remains valid for a day',
    ],
  ],
  run: (input, io) =>
    withParts(input, io, async parts => {
      const [tenant = ''] = input.arguments;
      const { presence: during } = parts.metadata;
      const overlapMs = overlapOf(input);
      await requireTenant(parts, tenant);
      const request = requestOf(tenant, input, io, parts.config);
      print(await parts.issuer.rotate(request, overlapMs, { during }), request, input, io);
      io.err(
        `credentials issued earlier to ${tenant} for ${request.server} end in ${formatDuration(overlapMs)}\n`,
      );
      return EXIT.done;
    }),
};

function requestOf(tenant: string, input: Input, io: Io, { server }: Config) {
  const written = textOption(input, 'server') ?? server.serverNames[0];
  if (written === undefined) {
    throw new CommandError(
      'the name of this registry is not known: use --server HOST, or set server.serverNames',
      EXIT.usage,
    );
  }
  try {
    const readOnly = input.options['readOnly'] === true;
    const { request, warning } = issueRequest({ server }, { tenant, written, readOnly });
    if (warning !== undefined) io.err(warningLine(warning));
    return request;
  } catch (error) {
    throw error instanceof TenantRequestInvalid ? new CommandError(error.message, EXIT.usage) : error;
  }
}

function overlapOf(input: Input): number {
  const overlapMs = parsedOverlap(textOption(input, 'overlap') ?? DEFAULT_OVERLAP);
  if (overlapMs <= MAX_OVERLAP_MS) return overlapMs;
  throw new CommandError(`--overlap: at most ${formatDuration(MAX_OVERLAP_MS)}`, EXIT.usage);
}

function parsedOverlap(text: string): number {
  try {
    return parseDuration(text);
  } catch (cause) {
    throw new CommandError(`--overlap: expected ${DURATION_FORM}`, EXIT.usage, { cause });
  }
}

interface Issued {
  readonly tenant: string;
  readonly server: string;
}

/** Prints the Secret; as YAML with instructions in comments. */
function print(credential: Credential, { tenant, server }: Issued, input: Input, io: Io): void {
  const { id, username, password } = credential;
  const manifest = issuedSecret(credential, { tenant, server, name: textOption(input, 'secretName') });
  const account = JSON.stringify({ imagePullSecrets: [{ name: manifest.metadata.name }] });
  const [host = server] = server.split('/');
  const comments = [
    'The password is shown only now. This file is a secret.',
    `In a cluster: kubectl apply --filename FILE`,
    `For all pods: kubectl patch serviceaccount default --namespace ${tenant} --patch '${account}'`,
    `Elsewhere: docker login ${host} --username ${username} --password '${password}'`,
    `To revoke it: entrepot tenant revoke ${tenant} --credential ${id}`,
  ];
  printResult(input, io, manifest, comments.map(line => `# ${line}\n`).join('') + formatYaml(manifest));
}
