import {
  address,
  addressRange,
  aloneOr,
  count,
  diskShare,
  duration,
  durationOrForever,
  interval,
  flag,
  imagePattern,
  listOf,
  oneOf,
  path,
  platform,
  rate,
  registryHost,
  registryUrl,
  repositoryPattern,
  repositoryPrefix,
  schedule,
  section,
  serverUrl,
  size,
  word,
  z,
} from './fields.ts';

/**
 * Every key of the configuration file, its default and its one-line description; the JSON schema, `config show` and
 * the names of environment variables are made from this. A new option is one line here (and, where a unit or a plural
 * belongs into the name that the code sees, one entry in the second argument of its `section`). What is not
 * implemented has no key.
 */

/** How mirrored content is kept current and who may have it: for an upstream, and for some of its repositories. */
const repositoryOptions = {
  pullPolicy: oneOf('Always', 'IfNotPresent', 'Never')
    .optional()
    .describe(
      'When a tag is asked for upstream; without it, as Kubernetes defaults: latest always, other tags after freshFor',
    ),
  freshFor: durationOrForever
    .optional()
    .describe('How long a tag other than latest is served without asking upstream again'),
  staleWhileRevalidate: duration
    .optional()
    .describe('For so long after freshFor, a held tag is served at once and asked for in the background'),
  openToAll: flag
    .optional()
    .describe("Anonymous clients may have what only the upstream's own credentials can read"),
  platforms: listOf(platform)
    .optional()
    .describe(
      'Of multi-platform images, what pull and check take (linux/amd64 by default), export (by default all that is held), and prefetch ahead of the node that asks (by default nothing)',
    ),
  prefetch: flag
    .optional()
    .describe(
      'Config and layers are fetched as soon as a manifest is asked for, behind what clients wait for',
    ),
  anonymousFallback: flag
    .optional()
    .describe('Who has credentials is tried without any as well, after all of them failed'),
};

const optionNames = { freshFor: 'freshForMs', staleWhileRevalidate: 'staleWhileRevalidateMs' } as const;

const credentials = section({
  username: word.describe('User name'),
  passwordFile: path.optional().describe('File that holds the password'),
  passwordEnv: word.optional().describe('Environment variable that holds the password'),
});

const mirror = aloneOr(
  'url',
  registryUrl,
  section({
    url: registryUrl.describe('URL of the mirror, with a path as that of the upstream'),
    credentials: credentials
      .optional()
      .describe("The mirror's own credentials; the upstream's never go there"),
  }),
);

/** The kubelet's names; the third it has itself spelt in two ways. */
const verificationPolicy = oneOf(
  'NeverVerify',
  'NeverVerifyPreloadedImages',
  'NeverVerifyAllowlistedImages',
  'NeverVerifyAllowListedImages',
  'AlwaysVerify',
);

const upstream = section(
  {
    url: registryUrl
      .optional()
      .describe(
        'Where the registry answers; https://NAME by default. With a path from /v2 on, such as ' +
          'https://registry.example/v2/proxy-hub, what is behind it goes before the names of all repositories',
      ),
    mirrors: listOf(mirror).prefault([]).describe('Tried in order when url cannot be reached or fails'),
    aliases: listOf(registryHost).prefault([]).describe('Other names of the same registry'),
    hostAlias: listOf(registryHost)
      .prefault([])
      .describe('Requests with this Host header mean this upstream'),
    realms: listOf(registryHost)
      .prefault([])
      .describe("Hosts of its token service, where they differ from url's"),
    credentials: credentials.optional().describe('Sent to url only'),
    caFile: path.optional().describe('PEM file of the authorities that sign its certificate'),
    insecure: flag.prefault(false).describe('Do not verify its certificate'),
    allowAddresses: listOf(addressRange)
      .prefault([])
      .describe('Private or loopback addresses that it may redirect to or resolve to'),
    ...repositoryOptions,
    freshFor: durationOrForever.prefault('1m').describe(description(repositoryOptions.freshFor)),
    prefetch: flag.prefault(false).describe(description(repositoryOptions.prefetch)),
    archInName: flag
      .prefault(false)
      .describe('NAME-ARCH means the image of NAME for ARCH, where upstream has no such repository'),
    openToAll: flag.prefault(false).describe(description(repositoryOptions.openToAll)),
    anonymousFallback: flag.prefault(false).describe(description(repositoryOptions.anonymousFallback)),
    imagePullCredentialsVerificationPolicy: verificationPolicy
      .optional()
      .describe('As the one above all upstreams, for this one'),
    repositories: z
      .array(
        section(
          { match: repositoryPattern.describe('Repository, or pattern'), ...repositoryOptions },
          optionNames,
        ),
      )
      .prefault([])
      .describe('Options for some repositories; the first that matches wins'),
  },
  { ...optionNames, hostAlias: 'hostAliases' },
);

const listener = aloneOr(
  'address',
  address,
  section({
    address: address.describe('Host and port'),
    upstream: registryHost.optional().describe('Everything on this port means this upstream'),
  }),
);

const tls = section({
  certFile: path.describe('PEM file of the certificate, with its intermediates'),
  keyFile: path.describe('PEM file of its private key'),
});

const server = section(
  {
    listen: listOf(listener).prefault('127.0.0.1:5000').describe('Where clients connect'),
    opsListen: z
      .union([address, z.literal(false, { error: 'expected false' })])
      .prefault('127.0.0.1:5001')
      .describe('Where /livez, /readyz and /metrics answer, to everybody who reaches it; false for nowhere'),
    serverNames: listOf(registryHost)
      .prefault([])
      .describe(
        'Names under which clients know this registry; where there are any, nothing is pushed under others',
      ),
    externalUrl: serverUrl.optional().describe('URL of this registry as clients see it'),
    trustedProxies: listOf(addressRange)
      .prefault([])
      .describe('Proxies whose X-Forwarded headers are believed'),
    tls: tls
      .optional()
      .describe('Serves HTTPS on every port of listen; the files are read again when they change'),
    allowPlainCredentials: flag
      .prefault(false)
      .describe('Asks for user names and passwords over plain HTTP, even beyond loopback'),
    shutdownTimeout: duration.prefault('30s').describe('How long a stop waits for bodies under way'),
  },
  { shutdownTimeout: 'shutdownTimeoutMs' },
);

const storage = section({
  path: path.prefault('./storage').describe('Folder of everything that is held'),
  maxBytes: size
    .optional()
    .describe(
      'When more is held than this, with what is not finished, the least recently used mirrored content goes; unlimited by default',
    ),
  minFree: diskShare
    .optional()
    .describe(
      'Space to leave free on the disk: the least recently used mirrored content is evicted first, then pushes are ' +
        'refused and downloads are not kept; by default 5% or 5GiB, whichever is less',
    ),
});

const intervalOrNever = z.union([interval, z.literal(false, { error: 'expected false' })]);

const prepull = section({
  images: listOf(word)
    .prefault([])
    .describe('Images that a server brings by itself, and entrepot pull when none is named'),
  from: listOf(path)
    .prefault([])
    .describe('Files that name more: lists with one image a line, or Kubernetes manifests'),
  schedule: z
    .union([schedule, z.literal(false, { error: 'expected false' })])
    .prefault('0 3 * * *')
    .describe(
      'When a server pulls them anew, as cron says it, in local time; it also does when it starts. false leaves them to entrepot pull',
    ),
});

const upkeep = section(
  {
    gcInterval: intervalOrNever
      .prefault('1h')
      .describe('How often garbage is collected; false leaves it to entrepot gc'),
    gcGracePeriod: duration
      .prefault('24h')
      .describe(
        'What was made or used within this time stays though nothing needs it: its manifest may be on the way',
      ),
    keepUnfinishedFor: duration
      .prefault('24h')
      .describe('How long an unfinished upload or download is kept, to be resumed'),
    scrubInterval: intervalOrNever
      .prefault('7d')
      .describe(
        'How often everything held is read again and compared with its digest; false leaves it to entrepot scrub',
      ),
    scrubRate: rate.prefault('16MiB').describe('How much of that is read in a second'),
  },
  {
    gcInterval: 'gcIntervalMs',
    gcGracePeriod: 'gcGracePeriodMs',
    keepUnfinishedFor: 'keepUnfinishedForMs',
    scrubInterval: 'scrubIntervalMs',
    scrubRate: 'scrubBytesPerSecond',
  },
);

const pulls = section({
  serializeImagePulls: flag.prefault(false).describe('One image at a time, as the kubelet says it'),
  maxParallelImagePulls: count(1).optional().describe('So many images at a time; unlimited by default'),
  maxConnections: count(1).prefault(128).describe('Connections to upstreams at a time; the rest queue'),
});

const hosted = section({
  prefixes: listOf(repositoryPrefix)
    .prefault([])
    .describe('First name components of repositories that live here'),
  anonymous: oneOf('none', 'pull', 'push')
    .prefault('none')
    .describe('What clients may do without credentials'),
  anonymousBeyondLoopback: flag
    .prefault(false)
    .describe('Lets anonymous push stand on ports that others reach'),
  shared: listOf(repositoryPattern)
    .prefault([])
    .describe("Tenants' repositories, or patterns of such, that every other tenant may pull"),
  delete: flag.prefault(true).describe('Who may push may delete'),
  maxRepositories: count(1)
    .prefault(10_000)
    .describe('Repositories that one tenant, or one prefix, may have here'),
  maxTags: count(1).prefault(100_000).describe('Tags that one repository here may have'),
  maxUploads: count(1).prefault(5_000).describe('Uploads that one requester may leave unfinished'),
});

const tenant = section({
  name: repositoryPrefix.describe('Its name, which is the first component of its repositories here'),
  secrets: listOf(path)
    .prefault([])
    .describe('Its pull secrets, in order: files of Secret manifests, mounted Secrets, or folders of such'),
  pullPolicy: oneOf('Always', 'IfNotPresent', 'Never')
    .optional()
    .describe("As an upstream's; the strictest of both counts"),
  forceAlways: flag
    .prefault(false)
    .describe("Every pull proves its right upstream, like Kubernetes' AlwaysPullImages"),
  quotaBytes: size.optional().describe('How much its repositories may hold together'),
  upstreams: listOf(registryHost).optional().describe('The only upstreams it may pull from'),
  repositories: listOf(imagePattern)
    .optional()
    .describe('The only mirrored repositories it may pull, with their upstream'),
  platforms: listOf(platform)
    .optional()
    .describe('What entrepot pull --tenant takes of multi-platform images, and prefetch for its nodes'),
  push: flag.prefault(true).describe('It may push to its own repositories'),
  maxTransfers: count(1).optional().describe('Its transfers from upstreams at a time; the rest queue'),
});

const credentialProviders = section({
  configFile: path.describe("The kubelet's CredentialProviderConfig, or a folder of such files"),
  binDir: path.describe('Folder of the plugins that it names'),
});

const kubernetes = section({
  kubeconfig: path
    .optional()
    .describe("How the API server is reached and as whom; without it, by this pod's own ServiceAccount"),
  namespaceSelector: word
    .prefault('entrepot=tenant')
    .describe('Labels of the namespaces that are tenants, as kubectl writes them'),
  namespaces: listOf(repositoryPrefix)
    .prefault([])
    .describe('Just these instead, whatever their labels: then nothing is read of any other'),
  push: oneOf('logins', 'serviceAccounts')
    .prefault('logins')
    .describe(
      'Who may push for a tenant: its logins of this registry, or the tokens of its ServiceAccounts too; of one namespace ' +
        'alone by the annotation entrepot-push: serviceAccounts on the Namespace',
    ),
});

const audit = section({
  output: oneOf('none', 'stdout', 'file').prefault('none').describe('Where it goes'),
  auditFile: path.optional().describe('The file, for output: file; it is only ever appended to'),
});

const log = section({
  level: oneOf('debug', 'info', 'warn', 'error').prefault('info').describe('The least level that is written'),
  format: oneOf('auto', 'json', 'pretty')
    .prefault('auto')
    .describe('auto is pretty on a terminal and JSON elsewhere'),
});

/** The whole file, after the presets were merged in. */
export const fileSchema = section(
  {
    server: server.prefault({}).describe('Ports and names'),
    storage: storage.prefault({}).describe('Where content is kept'),
    defaultUpstream: registryHost.optional().describe('The upstream of names that mention none'),
    upstreams: z
      .record(registryHost, upstream)
      .prefault({})
      .describe('Registries that are mirrored, by the host in image names; false switches a preset off'),
    offline: flag
      .prefault(false)
      .describe('No upstream is ever asked: everything is answered from what is held'),
    pulls: pulls.prefault({}).describe('Limits towards upstreams'),
    hosted: hosted.prefault({}).describe('Repositories that live here'),
    runtimeHandlers: z
      .record(word, listOf(platform))
      .prefault({})
      .describe(
        'Platforms of the images of pods by the handler of their RuntimeClass (or its name, where the files do not hold it), for entrepot pull and check',
      ),
    prepull: prepull.prefault({}).describe('Images that are brought here before a node asks for them'),
    upkeep: upkeep.prefault({}).describe('What keeps the store sound and small while it serves'),
    nodeConfig: listOf(path)
      .prefault([])
      .describe(
        "Docker's config.json for all tenants, as the kubelet reads one from its node; the first valid one counts",
      ),
    tenants: z
      .array(tenant)
      .prefault([])
      .describe('Who may log in and what is theirs; namespaces of a cluster need no entry here'),
    kubernetes: kubernetes
      .optional()
      .describe('A cluster whose namespaces are tenants, with the pull secrets that they have there'),
    credentialProviders: credentialProviders
      .optional()
      .describe("Programs that obtain credentials for upstreams: the kubelet's own exec plugins"),
    imagePullCredentialsVerificationPolicy: verificationPolicy
      .prefault('NeverVerifyPreloadedImages')
      .describe('For which held images the right to pull must be proved, as the kubelet says it'),
    preloadedImagesVerificationAllowlist: listOf(word)
      .prefault([])
      .describe('Images without tag, or prefixes ending in /*, for NeverVerifyAllowlistedImages'),
    verifyFor: duration.prefault('24h').describe('How long a right that upstream confirmed counts'),
    staleGrantFor: duration
      .prefault('72h')
      .describe('How long after that it still counts while upstream cannot be reached'),
    unknownCredentials: oneOf('refuse', 'verify')
      .prefault('refuse')
      .describe(
        'verify: credentials that no tenant holds are tried upstream, for requests that name the upstream',
      ),
    audit: audit.prefault({}).describe('Who did what: a log of its own'),
    log: log.prefault({}).describe('The log on standard output'),
  },
  { verifyFor: 'verifyForMs', staleGrantFor: 'staleGrantForMs' },
);

export type ParsedFile = z.output<typeof fileSchema>;
export type ParsedUpstream = z.output<typeof upstream>;

/** One of `tenants` of the configuration. */
export type TenantConfig = ParsedFile['tenants'][number];

/** `log` of the configuration. */
export type LogConfig = ParsedFile['log'];

/** Options of an upstream that a repository rule may set otherwise. */
export type RepositoryRule = ParsedUpstream['repositories'][number];

/** As much of JSON schema as is read here. */
export interface JsonSchema {
  type?: string;
  description?: string;
  properties?: Record<string, JsonSchema>;
  additionalProperties?: JsonSchema | boolean;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  const?: unknown;
}

/** The JSON schema (2020-12) of the file as people write it. */
export function fileJsonSchema(): JsonSchema {
  const options = { io: 'input', unrepresentable: 'any' } as const;
  const schema: JsonSchema = JSON.parse(JSON.stringify(z.toJSONSchema(fileSchema, options)));
  const upstreams = schema.properties?.['upstreams'];
  // `false` is taken out when presets are merged, so the schema proper does not know it.
  if (typeof upstreams?.additionalProperties === 'object') {
    upstreams.additionalProperties = { anyOf: [upstreams.additionalProperties, { const: false }] };
  }
  return schema;
}

function description(field: z.ZodType): string {
  return field.description ?? '';
}
