import { EVENT_KINDS } from '../oci/event.ts';
import {
  address,
  addressRange,
  aloneOr,
  bucketName,
  count,
  diskShare,
  duration,
  durationUpTo,
  durationOrForever,
  endpointName,
  endpointUrl,
  interval,
  flag,
  imagePattern,
  keyPrefix,
  listOf,
  loginName,
  nowOrAfter,
  oneOf,
  path,
  platform,
  postgresUrl,
  quota,
  rate,
  reachableAddress,
  registryHost,
  registryUrl,
  repositoryPattern,
  repositoryPrefix,
  schedule,
  schemaName,
  section,
  serverUrl,
  size,
  urlPath,
  word,
  z,
} from './fields.ts';

/**
 * All keys of the configuration file, with default and description. The JSON schema, `config show` and the names of
 * environment variables are derived from this. A new option is one line here (and one entry in the second argument of
 * its `section`, if the code's name for it has a unit or a plural). There is no key for anything that is not
 * implemented.
 */

/** How fresh mirrored content is kept, and who may have it: for an upstream, and for some of its repositories. */
const repositoryOptions = {
  pullPolicy: oneOf('Always', 'IfNotPresent', 'Never')
    .optional()
    .describe(
      'When a tag is checked upstream; by default as in Kubernetes: latest always, other tags after freshFor',
    ),
  freshFor: durationOrForever
    .optional()
    .describe('How long a tag other than latest is served without being checked upstream again'),
  staleWhileRevalidate: duration
    .optional()
    .describe('For this long after freshFor, a stored tag is served at once and checked in the background'),
  openToAll: flag
    .optional()
    .describe("Give anonymous clients access to what only the upstream's own credentials can read"),
  platforms: listOf(platform)
    .optional()
    .describe(
      'Platforms of multi-platform images for pull and check (default: linux/amd64), export (default: all that are stored), and prefetch (default: none)',
    ),
  prefetch: flag
    .optional()
    .describe(
      'Fetch config and layers as soon as a manifest is requested, with lower priority than what clients wait for',
    ),
  anonymousFallback: flag.optional().describe('Retry anonymously if every credential fails'),
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
    url: registryUrl.describe('URL of the mirror, which may have a path like that of the upstream'),
    credentials: credentials
      .optional()
      .describe('Credentials for the mirror; those of the upstream are never sent to it'),
  }),
);

/** The kubelet's names; it has used two spellings of the third. */
const verificationPolicy = oneOf(
  'NeverVerify',
  'NeverVerifyPreloadedImages',
  'NeverVerifyAllowlistedImages',
  'NeverVerifyAllowListedImages',
  'AlwaysVerify',
);

/** More is not faster, and registries take it for an attack. */
const MAX_CONNECTIONS_PER_BLOB = 16;

const upstream = section(
  {
    url: registryUrl
      .optional()
      .describe(
        'URL of the registry; https://NAME by default. With a path that begins with /v2, such as ' +
          'https://registry.example/v2/proxy-hub, the rest of the path is prepended to all repository names',
      ),
    mirrors: listOf(mirror).prefault([]).describe('Tried in order when url cannot be reached or fails'),
    aliases: listOf(registryHost).prefault([]).describe('Other names of the same registry'),
    hostAlias: listOf(registryHost)
      .prefault([])
      .describe('Requests with this Host header mean this upstream'),
    realms: listOf(registryHost)
      .prefault([])
      .describe('Hosts of its token service, if they differ from that of url'),
    credentials: credentials.optional().describe('Sent to url only'),
    caFile: path.optional().describe('PEM file of the CAs that its certificate is verified with'),
    insecure: flag.prefault(false).describe('Do not verify its certificate'),
    allowAddresses: listOf(addressRange)
      .prefault([])
      .describe('Private or loopback addresses that it may redirect or resolve to'),
    connectionsPerBlob: count(1, MAX_CONNECTIONS_PER_BLOB)
      .prefault(4)
      .describe(
        'Maximum number of connections that download a large layer, if several prove faster than one; 1 for always one',
      ),
    ...repositoryOptions,
    freshFor: durationOrForever.prefault('1m').describe(description(repositoryOptions.freshFor)),
    prefetch: flag.prefault(false).describe(description(repositoryOptions.prefetch)),
    archInName: flag
      .prefault(false)
      .describe('Treat NAME-ARCH as the image of NAME for ARCH if upstream has no such repository'),
    openToAll: flag.prefault(false).describe(description(repositoryOptions.openToAll)),
    anonymousFallback: flag.prefault(false).describe(description(repositoryOptions.anonymousFallback)),
    imagePullCredentialsVerificationPolicy: verificationPolicy
      .optional()
      .describe('Like the top-level option, for this upstream'),
    repositories: z
      .array(
        section(
          { match: repositoryPattern.describe('Repository or pattern'), ...repositoryOptions },
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

const admin = section({
  name: loginName.describe('User name of the login, and its name in the audit log'),
  passwordFile: path.optional().describe('File that holds the password'),
  passwordEnv: word.optional().describe('Environment variable that holds the password'),
  rights: oneOf('read', 'full')
    .prefault('full')
    .describe('read: may see everything but secrets; full: may also make changes'),
});

/** Each takes memory for its own; more of them than cores gain nothing. */
const MAX_PROCESSES = 64;

const server = section(
  {
    listen: listOf(listener).prefault('127.0.0.1:5000').describe('Addresses on which clients connect'),
    opsListen: z
      .union([address, z.literal(false, { error: 'expected false' })])
      .prefault('127.0.0.1:5001')
      .describe(
        'Address of /livez, /readyz and /metrics, for everybody who can reach it, and of /admin/v1; false for none',
      ),
    admins: z.array(admin).prefault([]).describe('Logins for /admin/v1 on opsListen (see docs/admin-api.md)'),
    loopbackAdmin: oneOf('full', 'read', 'none')
      .prefault('full')
      .describe('What clients on this machine may do with /admin/v1 without a login, as rights of admins'),
    processes: z
      .union([count(1, MAX_PROCESSES, 'auto'), z.literal('auto', { error: 'expected auto' })])
      .prefault(1)
      .describe(
        'Number of processes that serve clients: 1, more for a machine with several cores, or auto for one per core',
      ),
    serverNames: listOf(registryHost)
      .prefault([])
      .describe(
        'Names by which clients reach this registry; if set, pushes under any other name are refused, except under IP addresses and localhost',
      ),
    externalUrl: serverUrl.optional().describe('URL of this registry as clients see it'),
    trustedProxies: listOf(addressRange)
      .prefault([])
      .describe('Proxies whose X-Forwarded headers are believed'),
    tls: tls
      .optional()
      .describe('Serve HTTPS on every port of listen; the files are reloaded when they change'),
    allowPlainCredentials: flag
      .prefault(false)
      .describe('Ask for user names and passwords over plain HTTP, even beyond loopback'),
    shutdownTimeout: duration.prefault('30s').describe('How long a shutdown waits for transfers to finish'),
  },
  { shutdownTimeout: 'shutdownTimeoutMs' },
);

const s3 = section({
  endpoint: serverUrl
    .optional()
    .describe("URL of the service, without the bucket; by default that of AWS's S3 in the region"),
  region: word.prefault('us-east-1').describe('Region that requests are signed for'),
  bucket: bucketName.describe('Bucket, which must exist'),
  prefix: keyPrefix.prefault('').describe('Prefix of all keys, such as entrepot/; each store needs its own'),
  pathStyle: flag
    .prefault(false)
    .describe('Name the bucket in the path rather than in the host, as most services other than AWS need'),
  credentials: oneOf('env', 'file', 'webIdentity', 'instance')
    .prefault('env')
    .describe(
      'Where the keys come from: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, credentialsFile, the ' +
        'role of a Kubernetes ServiceAccount (AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE), or the metadata of an EC2 instance',
    ),
  credentialsFile: path
    .optional()
    .describe(
      "Credentials file in the format of AWS's tools, for credentials: file; read again when it may have changed",
    ),
  redirect: flag
    .prefault(false)
    .describe('Send clients to the service for stored blobs (307), by URLs that are valid for 5 minutes'),
  caFile: path.optional().describe('PEM file of the CAs that its certificate is verified with'),
});

const storage = section({
  path: path.prefault('./storage').describe('Folder of the store'),
  maxBytes: size
    .optional()
    .describe(
      'Above this size, including unfinished transfers, the least recently used mirrored content is evicted; unlimited by default',
    ),
  minFree: diskShare
    .optional()
    .describe(
      'Space to leave free on the disk: the least recently used mirrored content is evicted first, then pushes are ' +
        'refused and downloads are not kept; by default 5% or 5GiB, whichever is less',
    ),
  maxLocalBytes: diskShare
    .optional()
    .describe(
      'With s3: how much of what is in the bucket is also kept in the folder, where reading it is faster, as a size or a ' +
        'share of the disk; the least recently used goes first; by default 50%',
    ),
  s3: s3.optional().describe('Keep blobs in a bucket of an S3-compatible service (see docs/s3.md)'),
});

/** Each is a process of the server: a hundred of all its clients is its default. */
const MAX_POOL_SIZE = 100;

const postgresTls = section({
  caFile: path
    .optional()
    .describe('PEM file of the CAs that its certificate is verified with; by default those that Node trusts'),
});

const postgres = section({
  url: postgresUrl
    .optional()
    .describe('postgresql://USER@HOST:PORT/DATABASE, in place of host, port, database and user'),
  host: word.optional().describe('Host of the server, or of a pooler in front of it'),
  port: count(1, 65_535).optional().describe('Its port; 5432 by default'),
  database: word.optional().describe('Database, which must exist; entrepot by default'),
  user: word.optional().describe('User name; entrepot by default'),
  passwordFile: path
    .optional()
    .describe('File that holds the password; read again for each new connection, since it may change'),
  passwordEnv: word.optional().describe('Environment variable that holds the password'),
  tls: postgresTls
    .optional()
    .describe('Connect with TLS and verify the certificate, whose name must be that of the host'),
  poolSize: count(2, MAX_POOL_SIZE)
    .prefault(10)
    .describe('Number of connections of each process, besides one for heartbeats and up to three for upkeep'),
  schema: schemaName.prefault('entrepot').describe('Schema of the tables; each store needs its own'),
});

const index = section({
  postgres: postgres
    .optional()
    .describe('Keep the index in a PostgreSQL database rather than in the folder (see docs/postgres.md)'),
});

const clusterTls = section({
  certFile: path.describe('PEM file of the certificate of this replica, as a server and as a client'),
  keyFile: path.describe('PEM file of its private key'),
  caFile: path.describe('PEM file of the CAs that the certificates of replicas are verified with'),
});

const cluster = section({
  listen: address.describe(
    'Address for other replicas; connections are encrypted, and only replicas can make them',
  ),
  advertise: reachableAddress.describe(
    'Address at which they reach this replica: its own, not that of a load balancer',
  ),
  keyFile: path
    .optional()
    .describe(
      'File with the key that all replicas share: a line of at least 32 characters; further lines are accepted, too',
    ),
  tls: clusterTls
    .optional()
    .describe('Certificates in place of a key; those of all replicas must have a DNS name in common'),
});

const intervalOrNever = z.union([interval, z.literal(false, { error: 'expected false' })]);

const prepull = section({
  images: listOf(word)
    .prefault([])
    .describe('Images that the server pulls by itself, and entrepot pull if none is given'),
  from: listOf(path)
    .prefault([])
    .describe('Files with more images: lists with one image per line, or Kubernetes manifests'),
  schedule: z
    .union([schedule, z.literal(false, { error: 'expected false' })])
    .prefault('0 3 * * *')
    .describe(
      'When the server pulls them again, in cron syntax and local time, besides at startup; false leaves them to entrepot pull',
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
        'Keep content that was created or used within this time even if nothing needs it yet: its manifest may follow',
      ),
    keepUnfinishedFor: duration
      .prefault('24h')
      .describe('How long an unfinished upload or download is kept and can be resumed'),
    scrubInterval: intervalOrNever
      .prefault('7d')
      .describe(
        'How often all stored content is verified against its digests; false leaves it to entrepot scrub',
      ),
    scrubRate: rate.prefault('16MiB').describe('How much of that is read per second'),
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
  serializeImagePulls: flag.prefault(false).describe('Pull one image at a time, as in the kubelet'),
  maxParallelImagePulls: count(1)
    .optional()
    .describe('Number of images pulled at a time; unlimited by default'),
  maxConnections: count(1)
    .prefault(128)
    .describe('Number of simultaneous connections to upstreams; further requests queue'),
  completeRanged: nowOrAfter
    .prefault('30s')
    .describe(
      'When the rest of a layer is downloaded if clients request only ranges of it: never, now, or this long after the ' +
        'last request, if they have read at least a quarter of it',
    ),
});

const hosted = section({
  prefixes: listOf(repositoryPrefix)
    .prefault([])
    .describe('First components of the names of hosted repositories'),
  anonymous: oneOf('none', 'pull', 'push')
    .prefault('none')
    .describe('What everybody may do with repositories below prefixes, which no tenant owns'),
  anonymousBeyondLoopback: flag
    .prefault(false)
    .describe('Allow anonymous push on addresses that other machines can reach'),
  shared: listOf(repositoryPattern)
    .prefault([])
    .describe('Repositories of tenants or below prefixes, or patterns, that every tenant may pull'),
  delete: flag.prefault(true).describe('Clients that may push may also delete'),
  readOnly: flag
    .prefault(false)
    .describe('Refuse pushes and deletions by clients for now, such as while the store is moved'),
  maxRepositories: count(1).prefault(10_000).describe('Maximum number of repositories of a tenant or prefix'),
  maxTags: count(1).prefault(100_000).describe('Maximum number of tags in a hosted repository'),
  maxUploads: count(1).prefault(5_000).describe('Maximum number of unfinished uploads of a client'),
});

const tenant = section({
  name: repositoryPrefix.describe('Name of the tenant, which is the first component of its repositories'),
  secrets: listOf(path)
    .prefault([])
    .describe('Its pull secrets, in order: files of Secret manifests, mounted Secrets, or folders of these'),
  pullPolicy: oneOf('Always', 'IfNotPresent', 'Never')
    .optional()
    .describe("Like an upstream's; the stricter of the two applies"),
  forceAlways: flag
    .prefault(false)
    .describe("Verify the right to pull upstream on every pull, like Kubernetes' AlwaysPullImages"),
  quotaBytes: quota
    .optional()
    .describe(
      'How much its repositories may store in total: at least 4KiB, or 0B for no pushes at all. Each blob and manifest counts as at least 4 KiB',
    ),
  upstreams: listOf(registryHost).optional().describe('The only upstreams it may pull from'),
  repositories: listOf(imagePattern)
    .optional()
    .describe('The only mirrored repositories it may pull, with their upstream'),
  platforms: listOf(platform)
    .optional()
    .describe(
      'Platforms of multi-platform images for entrepot pull --tenant, and for prefetch for its nodes',
    ),
  push: flag.prefault(true).describe('Whether it may push to its own repositories'),
  maxTransfers: count(1)
    .optional()
    .describe('Number of its simultaneous transfers from upstreams; further ones queue'),
});

const credentialProviders = section({
  configFile: path.describe('A CredentialProviderConfig of the kubelet, or a folder of them'),
  binDir: path.describe('Folder of the plugins'),
});

const kubernetes = section({
  kubeconfig: path
    .optional()
    .describe('Kubeconfig for the API server; by default, the ServiceAccount of this pod is used'),
  namespaceSelector: word
    .prefault('entrepot=tenant')
    .describe('Label selector of the namespaces that are tenants, as in kubectl'),
  namespaces: listOf(repositoryPrefix)
    .prefault([])
    .describe('Only these namespaces, whatever their labels; nothing is read from any other'),
  push: oneOf('logins', 'serviceAccounts')
    .prefault('logins')
    .describe(
      'What may push for a tenant: its logins of this registry, or also its ServiceAccount tokens; for one namespace ' +
        'only, annotate the Namespace with entrepot-push: serviceAccounts',
    ),
  adminPath: urlPath
    .optional()
    .describe(
      'A non-resource URL such as /entrepot/admin: whoever may get it by the rules of the cluster (RBAC) may see ' +
        '/admin/v1 with a Kubernetes token, and whoever may also post to it may change things',
    ),
});

const audit = section({
  output: oneOf('none', 'stdout', 'file').prefault('none').describe('Where it is written'),
  auditFile: path.optional().describe('The file for output: file, which is only appended to'),
});

/** A receiver that takes longer has accepted the request and should answer before it acts on it. */
const MAX_TIMEOUT_MS = 30_000;
/** With the largest names and headers, the body then has 200 KB. */
const MAX_EVENTS_PER_REQUEST = 100;
/** Each is written for itself, and each has a sender of its own. */
const MAX_ENDPOINTS = 20;

const endpoint = section(
  {
    name: endpointName.describe('Name in messages, metrics and entrepot notify'),
    url: endpointUrl.describe('Where events are sent by POST; redirects are not followed'),
    format: oneOf('distribution', 'cloudevents')
      .prefault('distribution')
      .describe(
        "distribution: the envelope of the distribution registry's notifications; cloudevents: CloudEvents 1.0 as JSON",
      ),
    events: listOf(oneOf(...EVENT_KINDS))
      .optional()
      .describe('Only these kinds of events; all by default'),
    repositories: listOf(imagePattern)
      .optional()
      .describe('Only events of these repositories, mirrored ones with their upstream; all by default'),
    headersFile: path
      .optional()
      .describe('File with headers for each request, such as Authorization: Bearer TOKEN, one per line'),
    signingKeyFile: path
      .optional()
      .describe('File with the key that requests are signed with, as in Standard Webhooks (HMAC-SHA256)'),
    caFile: path.optional().describe('PEM file of the CAs that its certificate is verified with'),
    timeout: durationUpTo(MAX_TIMEOUT_MS).prefault('5s').describe('How long it may take to answer'),
    eventsPerRequest: count(1, MAX_EVENTS_PER_REQUEST)
      .optional()
      .describe('How many events one request may contain: by default 100, and 1 with cloudevents'),
  },
  { timeout: 'timeoutMs' },
);

const notifications = section({
  endpoints: z
    .array(endpoint)
    .max(MAX_ENDPOINTS, { error: `expected at most ${MAX_ENDPOINTS} endpoints` })
    .prefault([])
    .describe(
      'Endpoints that are notified of events: at least once, and in order (see docs/notifications.md)',
    ),
});

const log = section({
  level: oneOf('debug', 'info', 'warn', 'error').prefault('info').describe('Lowest level that is logged'),
  format: oneOf('auto', 'json', 'pretty')
    .prefault('auto')
    .describe('auto is pretty on a terminal and JSON elsewhere'),
});

/** The whole file, after presets were merged in. */
export const fileSchema = section(
  {
    server: server.prefault({}).describe('Ports and names'),
    storage: storage.prefault({}).describe('Where content is stored'),
    index: index.prefault({}).describe('Where the index of the content is stored'),
    cluster: cluster
      .optional()
      .describe('Other replicas, on other machines, with the same index and bucket (see docs/replicas.md)'),
    defaultUpstream: registryHost.optional().describe('The upstream of names without a registry'),
    upstreams: z
      .record(registryHost, upstream)
      .prefault({})
      .describe('Registries to mirror, by the host in image names; false disables a preset'),
    offline: flag.prefault(false).describe('Never contact an upstream: serve only stored content'),
    pulls: pulls.prefault({}).describe('Limits on requests to upstreams'),
    hosted: hosted.prefault({}).describe('Repositories that are stored here rather than mirrored'),
    runtimeHandlers: z
      .record(word, listOf(platform))
      .prefault({})
      .describe(
        'Platforms of pod images by the handler of their RuntimeClass (or by its name if the files do not contain it), for entrepot pull and check',
      ),
    prepull: prepull.prefault({}).describe('Images to pull before a node asks for them'),
    upkeep: upkeep.prefault({}).describe('Maintenance of the store while the server runs'),
    nodeConfig: listOf(path)
      .prefault([])
      .describe(
        'Docker config.json files for all tenants, as the kubelet reads one from its node; the first valid one is used',
      ),
    tenants: z
      .array(tenant)
      .prefault([])
      .describe('Who may log in, and what they own; namespaces of a cluster need no entry here'),
    kubernetes: kubernetes
      .optional()
      .describe('A cluster whose namespaces are tenants, with their pull secrets'),
    credentialProviders: credentialProviders
      .optional()
      .describe("Programs that obtain credentials for upstreams: the kubelet's own exec plugins"),
    imagePullCredentialsVerificationPolicy: verificationPolicy
      .prefault('NeverVerifyPreloadedImages')
      .describe('For which stored images the right to pull must be verified, with the values of the kubelet'),
    preloadedImagesVerificationAllowlist: listOf(word)
      .prefault([])
      .describe('Images without tag, or prefixes ending in /*, for NeverVerifyAllowlistedImages'),
    verifyFor: duration.prefault('24h').describe('How long a right confirmed by upstream remains valid'),
    staleGrantFor: duration
      .prefault('72h')
      .describe('How long after that it remains valid while upstream cannot be reached'),
    unknownCredentials: oneOf('refuse', 'verify')
      .prefault('refuse')
      .describe(
        'verify: credentials that no tenant has are tried upstream, for requests that name the upstream',
      ),
    audit: audit.prefault({}).describe('A separate log of who did what'),
    notifications: notifications.prefault({}).describe('Events that are sent to other programs'),
    log: log.prefault({}).describe('The log on standard output'),
  },
  { verifyFor: 'verifyForMs', staleGrantFor: 'staleGrantForMs' },
);

/** The configuration file after parsing, with defaults. */
export type ParsedFile = z.output<typeof fileSchema>;
export type ParsedUpstream = z.output<typeof upstream>;
export type ParsedEndpoint = z.output<typeof endpoint>;

/** Options of an upstream that can be overridden for some repositories. */
export type RepositoryRule = ParsedUpstream['repositories'][number];

/** The parts of a JSON schema that are used here. */
export interface JsonSchema {
  type?: string;
  description?: string;
  properties?: Record<string, JsonSchema>;
  additionalProperties?: JsonSchema | boolean;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  const?: unknown;
}

/** The JSON schema (2020-12) of the file as written by people. */
export function fileJsonSchema(): JsonSchema {
  const options = { io: 'input', unrepresentable: 'any' } as const;
  const schema: JsonSchema = JSON.parse(JSON.stringify(z.toJSONSchema(fileSchema, options)));
  const upstreams = schema.properties?.['upstreams'];
  // The schema itself does not allow `false`, which is removed when presets are merged.
  if (typeof upstreams?.additionalProperties === 'object') {
    upstreams.additionalProperties = { anyOf: [upstreams.additionalProperties, { const: false }] };
  }
  return schema;
}

function description(field: z.ZodType): string {
  return field.description ?? '';
}
