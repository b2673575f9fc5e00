import type { Explanation } from '../access/explanation.ts';
import type { ExplainedGrant } from '../grants/grants.ts';
import { columnsText, timeText } from './columns.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  jsonOption,
  textOption,
} from './command.ts';
import { askAdmin } from './running-server.ts';
import { storeConfig } from './store-config.ts';
import { withParts } from './with-parts.ts';

const HEADINGS = ['TRIED', 'USER', 'SECRET', 'SOURCE', 'KEY', 'PROOF'] as const;

/** `entrepot explain`: why an image can be pulled or not, and what a pull would do. */
export const explain: Command = {
  name: 'explain',
  summary: 'say whether a pull of an image would succeed, and why',
  description:
    'Shows which upstream an image comes from, which credentials match it and in which order they are tried, which ' +
    'grants are remembered, what is stored, and what a pull would do: for a tenant with --tenant, otherwise for ' +
    'a client that does not log in. Asks the running server, or reads the configuration and the store itself if ' +
    'there is none.',
  arguments: [{ name: '<reference>', description: 'image reference, such as ghcr.io/org/app' }],
  options: [
    { flags: '--tenant <name>', description: 'the tenant that pulls (default: a client without a login)' },
    jsonOption('repository, tenant, attempts, grants, conclusions'),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot explain docker.io/library/nginx:1.27', 'whether upstream is asked, and why'],
    ['entrepot explain ghcr.io/org/app --tenant team-a', 'why its pods cannot pull it'],
  ],
  run: async (input, io) => {
    const [reference = ''] = input.arguments;
    const tenant = textOption(input, 'tenant');
    const config = await storeConfig(input, io);
    const query = { reference, ...(tenant !== undefined && { tenant }) };
    const told = await askAdmin<Explanation>(config.storage.path, '/explain', query);
    if (told === undefined) {
      io.err('no server answers for this store: showing what a newly started one would do\n');
    }
    const explanation =
      told === undefined
        ? await withParts(input, io, parts => parts.explain(reference, tenant), {
            followsCluster: true,
            credentialsOf: { tenant },
            config,
          })
        : told;
    if (explanation === undefined) throw new CommandError(`there is no tenant named ${tenant}`);
    printResult(input, io, explanation, explanationText(explanation));
    return EXIT.done;
  },
};

/** The text for people: the attempts as a table, then the conclusions. */
export function explanationText(explanation: Explanation, nowMs = Date.now()): string {
  const { repository, tenant, attempts, grants, conclusions } = explanation;
  const rows = attempts.map(({ credentialId, username, secret, source, matchedKey, grant }, at) => [
    credentialId === undefined ? `${at + 1}. nothing` : `${at + 1}. ${credentialId.slice(0, 12)}`,
    username ?? '',
    secret,
    source,
    matchedKey ?? '',
    grant === undefined ? 'none' : grantText(grant, nowMs),
  ]);
  return [
    `${repository} for ${tenant ?? 'anybody, without a login'}\n`,
    ...(rows.length === 0 ? [] : ['\n', columnsText(HEADINGS, rows)]),
    ...(grants.length === 0
      ? []
      : ['\n', ...grants.map(grant => `${grant.of}: ${grantText(grant, nowMs)}\n`)]),
    '\n',
    ...conclusions.map(conclusion => `- ${conclusion}\n`),
  ].join('');
}

const STATES = {
  counts: 'valid',
  stale: 'valid only while upstream is unreachable',
  over: 'expired',
} as const;

function grantText({ verifiedAtMs, state }: ExplainedGrant, nowMs: number): string {
  return `${STATES[state]}, recorded ${timeText(verifiedAtMs, nowMs)}`;
}
