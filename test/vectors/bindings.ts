import { expect } from 'vitest';
import * as pullRecord from '../../src/grants/pull-record.ts';
import * as verification from '../../src/grants/verification.ts';
import { KeyedBackoff } from '../../src/lib/keyed-backoff.ts';
import { freshnessOf } from '../../src/mirror/freshness.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_MANIFEST } from '../../src/oci/media-types.ts';
import * as platform from '../../src/oci/platform.ts';
import * as pullPolicy from '../../src/oci/pull-policy.ts';
import * as reference from '../../src/oci/reference.ts';
import * as provider from '../../src/tenants/credential-provider.ts';
import * as dockerConfig from '../../src/tenants/docker-config.ts';
import { parseGoDuration } from '../../src/tenants/go-encoding.ts';
import { Keyring } from '../../src/tenants/keyring.ts';

/** Asserts one vector. Written as a method, which TypeScript lets take something narrower than any object. */
type Check = { check(vector: object): void }['check'];

/**
 * Which function of ours a vector binds: by `schema`, or `schema/op` where the schema has operations. A further file of
 * a known schema needs nothing here.
 */
export const BINDINGS: Readonly<Record<string, Check>> = {
  reference: checkReference,
  platform: checkPlatform,
  'dockercfg-parse': checkDockerConfig,
  'keyring/lookup': checkLookup,
  'credential-provider/match': checkMatch,
  'credential-provider/cacheKey': checkCacheKey,
  'credential-provider/decodeResponse': checkDecodeResponse,
  'credential-provider/encodeRequest': checkEncodeRequest,
  'pullpolicy/defaultPolicy': checkDefaultPolicy,
  'pullpolicy/applyDefaultTag': checkApplyDefaultTag,
  'pullpolicy/backoff': checkBackoff,
  'pullpolicy/ensureImage': checkEnsureImage,
  'pullpolicy/validateConfig': checkValidateConfig,
  'pullrecords/mustAttemptImagePull': checkMustAttemptImagePull,
  'pullrecords/requireVerification': checkRequireVerification,
  'pullrecords/mergeCredentials': checkMergeCredentials,
  'pullrecords/recordImagePulled': checkRecordImagePulled,
  'pullrecords/credentialsToRecord': checkCredentialsToRecord,
  'pullrecords/credentialHash': checkCredentialHash,
};

/** Operations that are the kubelet's own and nothing of a registry's, each with the reason. */
export const NOT_OURS: Readonly<Record<string, string>> = {
  'pullpolicy/classifyPullError': "the kubelet's wording of a runtime's error text for a pod's status",
  'pullrecords/fileName': "where the kubelet keeps its records on a node's disk; ours are rows of the index",
  'pullrecords/initialize':
    "how the kubelet turns a node's left-over intent files and its runtime's image list into records",
  'pullrecords/pruneUnknownRecords':
    "how the kubelet clears record files of images that a node's runtime no longer lists",
};

/** Functions that vectors drive and the product does not call, each with the reason. All others it does. */
export const DRIVEN_ALONE: Readonly<Record<string, string>> = {
  parseDockerReference: 'the reading of a name by containerd, which asks us by tag or digest alone',
  parseAnyReference: 'the reading of a name by the Docker CLI, which takes a bare digest for one',
  familiarText: 'the short form of a name that Docker shows; here names are shown in full',
  parseDockerConfigEntry: 'one entry by itself, read by what reads each entry of a Secret',
  applyDefaultTag: 'what the kubelet hands to its runtime, which then asks us for that tag',
  credentialHash: "the kubelet's own hash; what the index names credentials by is keyed",
};

interface ReferenceVector {
  readonly mode: 'parse' | 'normalized' | 'dockerRef' | 'any' | 'kubelet';
  readonly input: string;
  readonly expected?: Partial<reference.Reference>;
  readonly error?: string;
  readonly familiar?: string;
  readonly output?: string;
}

const PARSERS = {
  parse: reference.parseReference,
  normalized: reference.parseNormalizedReference,
  dockerRef: reference.parseDockerReference,
  any: reference.parseAnyReference,
  kubelet: reference.parseImageName,
};

function checkReference({ mode, input, expected, error, familiar, output }: ReferenceVector): void {
  const parse = PARSERS[mode];
  if (error !== undefined) {
    expect(() => parse(input)).toThrow(expect.objectContaining({ name: 'InvalidReference', fault: error }));
    return;
  }
  const parsed = parse(input);
  const none = { registry: '', repository: '', tag: '', digest: '' };
  expect({ ...none, ...parsed }).toEqual({ ...none, ...expected });
  if (familiar !== undefined) expect(reference.familiarText(parsed)).toBe(familiar);
  const text = mode === 'kubelet' ? reference.referenceName(parsed) : reference.referenceText(parsed);
  if (output !== undefined) expect(text).toBe(output);
}

interface PlatformVector {
  readonly matcher: platform.PlatformMatcher;
  readonly host: platform.Platform;
  readonly manifests: readonly {
    readonly platform: platform.Platform | null;
    readonly configPlatform?: platform.Platform;
    readonly annotations?: Readonly<Record<string, string>>;
  }[];
  readonly expected: { readonly chosen: number | null; readonly order: readonly number[] };
}

function checkPlatform({ matcher, host, manifests, expected }: PlatformVector): void {
  const children = manifests.map(({ platform: own, configPlatform, annotations = {} }, index) => {
    const descriptor: Descriptor = {
      mediaType: OCI_MANIFEST,
      digest: digestOf(Buffer.from(`${index}`)),
      size: 1,
      annotations,
      ...(own && { platform: own }),
    };
    return { ...descriptor, index, configPlatform };
  });
  const chosen = platform.choosePlatform(children, host, matcher, child => child.configPlatform);
  const order = chosen.map(({ index }) => index);
  expect({ chosen: order[0] ?? null, order }).toEqual(expected);
}

interface DockerConfigVector {
  readonly format: 'config.json' | 'dockercfg' | 'entry' | 'auth';
  readonly raw: string;
  readonly expected: Readonly<Record<string, unknown>>;
}

const DOCKER_CONFIG_FORMATS: Readonly<Record<DockerConfigVector['format'], (raw: string) => unknown>> = {
  'config.json': raw => ({ auths: Object.fromEntries(dockerConfig.parseDockerConfigJson(raw)) }),
  dockercfg: raw => ({ auths: Object.fromEntries(dockerConfig.parseDockercfg(raw)) }),
  entry: raw => ({ entry: dockerConfig.parseDockerConfigEntry(raw) }),
  auth: dockerConfig.decodeAuth,
};

function checkDockerConfig({ format, raw, expected }: DockerConfigVector): void {
  const parse = DOCKER_CONFIG_FORMATS[format];
  if (expected['error'] === true) expect(() => parse(raw)).toThrow(dockerConfig.InvalidDockerConfig);
  else expect(parse(raw)).toEqual(expected);
}

interface LookupVector {
  readonly secrets: readonly {
    readonly name?: string;
    readonly type: string;
    readonly data: Readonly<Record<string, string>>;
  }[];
  readonly nodeConfig: string | null;
  readonly lookup: string;
  readonly expected: { readonly error?: string };
}

function checkLookup({ secrets, nodeConfig, lookup, expected }: LookupVector): void {
  const build = () => {
    const ofPod = secrets.flatMap(({ name, type, data }, index) => {
      const config = dockerConfig.parsePullSecret(type, new Map(Object.entries(data)));
      return config === undefined ? [] : [{ source: name ?? `secret-${index}`, config }];
    });
    const ofNode =
      nodeConfig === null ? [] : [{ source: 'node', config: dockerConfig.parseDockerConfigJson(nodeConfig) }];
    return new Keyring([ofPod, ofNode]);
  };
  if (expected.error !== undefined) {
    expect(build).toThrow(dockerConfig.InvalidDockerConfig);
    return;
  }
  const credentials = build()
    .lookup(lookup)
    .map(({ username, password, email, source, key }) => ({
      username,
      password,
      ...(email && { email }),
      from: source,
      matchedKey: key,
    }));
  expect({ found: credentials.length > 0, credentials }).toEqual(expected);
}

interface MatchVector {
  readonly matchImages: readonly string[];
  readonly image: string;
  readonly expected: { readonly match: boolean };
}

function checkMatch({ matchImages, image, expected }: MatchVector): void {
  expect({ match: provider.matchesImage(matchImages, image) }).toEqual(expected);
}

interface CacheKeyVector {
  readonly matchImages: readonly string[];
  readonly image: string;
  readonly response: { readonly cacheKeyType: string; readonly cacheDuration?: string };
  readonly defaultCacheDuration?: string;
  readonly expected: {
    readonly cacheKeys: readonly string[];
    readonly cached: boolean;
    readonly credentials?: 'none';
    readonly execCalled?: boolean;
  };
}

function checkCacheKey({
  matchImages,
  image,
  response,
  defaultCacheDuration,
  expected,
}: CacheKeyVector): void {
  const isAsked = provider.matchesImage(matchImages, image);
  const { cacheKeyType, cacheDuration } = response;
  const cacheMs = cacheDuration === undefined ? undefined : parseGoDuration(cacheDuration);
  const defaultMs = parseGoDuration(defaultCacheDuration ?? '0') ?? Number.NaN;
  const caching = isAsked ? provider.cachingOf({ cacheKeyType, cacheMs }, image, defaultMs) : undefined;
  const key = caching?.key;
  expect({ cacheKeys: key === undefined ? [] : [key], cached: key !== undefined }).toEqual({
    cacheKeys: expected.cacheKeys,
    cached: expected.cached,
  });
  expect(caching === undefined).toBe(expected.credentials === 'none');
  if (expected.execCalled !== undefined) expect(isAsked).toBe(expected.execCalled);
}

interface DecodeResponseVector {
  readonly raw: string;
  readonly expected: {
    readonly error?: boolean;
    readonly cacheDurationSeconds?: number | null;
    readonly auth?: Readonly<Record<string, unknown>> | null;
  };
}

function checkDecodeResponse({ raw, expected }: DecodeResponseVector): void {
  if (expected.error === true) {
    expect(() => provider.decodeResponse(raw)).toThrow(provider.InvalidCredentialProvider);
    return;
  }
  const { cacheKeyType, cacheMs, auth } = provider.decodeResponse(raw);
  const cacheDurationSeconds = cacheMs === undefined ? undefined : cacheMs / 1000;
  expect({ cacheKeyType, cacheDurationSeconds, auth: Object.fromEntries(auth) }).toEqual({
    ...expected,
    cacheDurationSeconds: expected.cacheDurationSeconds ?? undefined,
    auth: expected.auth ?? {},
  });
}

interface EncodeRequestVector {
  readonly apiVersion: string;
  readonly image: string;
  readonly expected: { readonly stdin: string };
}

function checkEncodeRequest({ apiVersion, image, expected }: EncodeRequestVector): void {
  expect(provider.encodeRequest(apiVersion, image)).toBe(expected.stdin);
}

interface DefaultPolicyVector {
  readonly image: string;
  readonly policy: string;
  readonly expected: { readonly policy: string };
}

function checkDefaultPolicy({ image, policy, expected }: DefaultPolicyVector): void {
  expect({ policy: policy || pullPolicy.defaultPullPolicy(image) }).toEqual(expected);
}

function checkApplyDefaultTag(vector: {
  image: string;
  expected: { image?: string; error?: unknown };
}): void {
  const { image, expected } = vector;
  if (expected.image === undefined)
    expect(() => pullPolicy.applyDefaultTag(image)).toThrow(reference.InvalidReference);
  else expect(pullPolicy.applyDefaultTag(image)).toBe(expected.image);
}

interface BackoffVector {
  readonly requestTimesSeconds: readonly number[];
  readonly expected: readonly { readonly backoffSeconds: number }[];
}

function checkBackoff({ requestTimesSeconds, expected }: BackoffVector): void {
  const backoff = new KeyedBackoff(pullPolicy.IMAGE_PULL_BACKOFF);
  let backoffSeconds = 0;
  const attempts = requestTimesSeconds.map(t => {
    const isWaiting = backoff.remainingMs('image', t * 1000) > 0;
    if (!isWaiting) backoffSeconds = backoff.failed('image', t * 1000) / 1000;
    return { t, result: isWaiting ? 'ImagePullBackOff' : 'ErrImagePull', backoffSeconds };
  });
  expect(attempts).toEqual(expected);
}

interface EnsureImageVector {
  readonly image: string;
  readonly policy: pullPolicy.ImagePullPolicy;
  readonly presentLocally: boolean;
  readonly inspectError: string | null;
  readonly pullError: string | null;
  readonly ensureSecretPulledImages: boolean;
  readonly credentialAcceptedLocally: boolean | null;
  readonly registryQPS: number;
  readonly registryBurst: number;
  readonly backoff: {
    readonly initialSeconds: number;
    readonly maxSeconds: number;
    readonly secondsBeforeEachAttempt: number;
  };
  readonly expected: { readonly attempts: readonly { pullAttempted: boolean; error: string | null }[] };
}

/**
 * When a pull is tried, and whether the attempt comes to nothing: its reason as a word is the kubelet's own. A name that
 * is none comes to nothing before anything is looked at.
 */
function checkEnsureImage(vector: EnsureImageVector): void {
  const { initialSeconds, maxSeconds, secondsBeforeEachAttempt } = vector.backoff;
  const backoff = new KeyedBackoff({ firstMs: initialSeconds * 1000, maxMs: maxSeconds * 1000 });
  // What the pod's credentials do not open is as good as absent.
  const isAccepted = !vector.ensureSecretPulledImages || vector.credentialAcceptedLocally !== false;
  const isHeld = vector.presentLocally && isAccepted;
  const pullFails = vector.pullError !== null || (vector.registryQPS > 0 && vector.registryBurst === 0);

  const named = readReference(vector.image);

  const attempt = (nowMs: number): { pullAttempted: boolean; fails: boolean } => {
    if (named === undefined || vector.inspectError !== null) return { pullAttempted: false, fails: true };
    const rules = { pullPolicy: vector.policy, freshForMs: 0 };
    const freshness = freshnessOf(named.tag ?? reference.DEFAULT_TAG, isHeld ? 0 : undefined, rules);
    if (freshness !== 'ask') return { pullAttempted: false, fails: !isHeld };
    if (backoff.remainingMs('image', nowMs) > 0) return { pullAttempted: false, fails: true };
    if (pullFails) backoff.failed('image', nowMs);
    return { pullAttempted: true, fails: pullFails };
  };
  const expected = vector.expected.attempts.map(({ pullAttempted, error }) => ({
    pullAttempted,
    fails: error !== null,
  }));
  expect(expected.map((_, index) => attempt((index + 1) * secondsBeforeEachAttempt * 1000))).toEqual(
    expected,
  );
}

/** As `RepositoryResolver` reads what is to be pulled; `undefined` for what is no name. */
function readReference(image: string): reference.Reference | undefined {
  try {
    return reference.parseNormalizedReference(image);
  } catch (error) {
    if (error instanceof reference.InvalidReference) return undefined;
    throw error;
  }
}

interface ValidateConfigVector {
  readonly config: {
    readonly serializeImagePulls: boolean | null;
    readonly maxParallelImagePulls: number | null;
    readonly registryPullQPS: number | null;
    readonly registryBurst: number | null;
  };
  readonly expected: { readonly valid: boolean };
}

function checkValidateConfig({ config, expected }: ValidateConfigVector): void {
  const problems = pullPolicy.pullLimitProblems({
    serializeImagePulls: config.serializeImagePulls ?? true,
    maxParallelImagePulls: config.maxParallelImagePulls ?? undefined,
    registryPullQPS: config.registryPullQPS ?? undefined,
    registryBurst: config.registryBurst ?? undefined,
  });
  expect({ valid: problems.length === 0 }).toEqual(expected);
}

interface MustAttemptVector {
  readonly policy: verification.VerificationPolicyName;
  readonly allowlist?: readonly string[];
  readonly image: string;
  readonly imageRef: string;
  readonly records: readonly (pullRecord.PulledRecord & { readonly corrupt?: boolean })[];
  readonly intents: readonly string[];
  readonly podSecrets: readonly pullRecord.RecordedSecret[];
  readonly podServiceAccount: pullRecord.ObjectCoordinates | null;
  readonly expected: Readonly<Record<string, unknown>>;
}

function checkMustAttemptImagePull(vector: MustAttemptVector): void {
  const { image, imageRef, records, intents, podSecrets, podServiceAccount, expected } = vector;
  const record = records.find(candidate => candidate.imageRef === imageRef);
  let podCredentialsRequested = false;
  const held = {
    imageRef,
    record: record?.corrupt === true ? ('unreadable' as const) : record,
    isPulling: intents.includes(image),
  };
  const policy = new verification.VerificationPolicy(vector.policy, vector.allowlist ?? []);
  const decision = verification.mustAttemptImagePull(image, held, policy, () => {
    podCredentialsRequested = true;
    return { secrets: podSecrets, serviceAccount: podServiceAccount ?? undefined };
  });
  expect({
    mustPull: decision.mustPull,
    podCredentialsRequested,
    recordWritten: decision.record ?? null,
  }).toEqual(expected);
}

interface RequireVerificationVector {
  readonly policy: verification.VerificationPolicyName;
  readonly allowlist: readonly string[];
  readonly image: string;
  readonly pulledByKubelet: boolean;
  readonly expected: { readonly requires?: boolean; readonly error?: boolean };
}

function checkRequireVerification(vector: RequireVerificationVector): void {
  const { policy, allowlist, image, pulledByKubelet, expected } = vector;
  const build = () => new verification.VerificationPolicy(policy, allowlist);
  if (expected.error === true) expect(build).toThrow(verification.InvalidAllowlist);
  else expect({ requires: build().requires(image, pulledByKubelet) }).toEqual(expected);
}

interface MergeCredentialsVector {
  readonly record: pullRecord.PulledRecord;
  readonly mappingKey: string;
  readonly newCredentials: pullRecord.PullCredentials | null;
  readonly expected: Readonly<Record<string, unknown>>;
}

function checkMergeCredentials({
  record,
  mappingKey,
  newCredentials,
  expected,
}: MergeCredentialsVector): void {
  const after = pullRecord.mergeCredentials(record, mappingKey, newCredentials ?? undefined);
  const mapping = after.credentialMapping?.[mappingKey] ?? null;
  expect({ changed: after !== record, mapping }).toEqual(expected);
}

interface RecordImagePulledVector {
  readonly image: string;
  readonly imageRef: string;
  readonly credentials: pullRecord.PullCredentials | null;
  readonly records: readonly pullRecord.PulledRecord[];
  readonly expected: { readonly recordWritten: boolean; readonly record: pullRecord.PulledRecord };
}

/** `intentRemoved` is about a file of the kubelet's and is not looked at. */
function checkRecordImagePulled(vector: RecordImagePulledVector): void {
  const { image, imageRef, credentials, records, expected } = vector;
  const repository = reference.referenceName(reference.parseImageName(image));
  const before = records.find(record => record.imageRef === imageRef);
  const after = pullRecord.recordImagePulled(before, imageRef, repository, credentials ?? undefined);
  expect({ recordWritten: after !== before, record: after }).toEqual({
    recordWritten: expected.recordWritten,
    record: expected.record,
  });
}

interface CredentialsToRecordVector {
  readonly usedCredential: pullRecord.UsedCredential | null;
  readonly expected: pullRecord.PullCredentials;
}

function checkCredentialsToRecord({ usedCredential, expected }: CredentialsToRecordVector): void {
  expect(pullRecord.credentialsToRecord(usedCredential ?? undefined)).toEqual(expected);
}

interface CredentialHashVector {
  readonly credential: Partial<dockerConfig.DockerConfigEntry>;
  readonly expected: { readonly sha256: string };
}

function checkCredentialHash({ credential, expected }: CredentialHashVector): void {
  expect(verification.credentialHash(credential)).toBe(expected.sha256);
}
