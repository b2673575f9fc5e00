import { formatDuration } from '../lib/units.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { credentialId } from '../oci/credential.ts';
import { isDigest } from '../oci/digest.ts';
import { defaultPullPolicy } from '../oci/pull-policy.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { freshnessOf, type PullRule } from './pull-rule.ts';
import type { RememberedFailures } from './remembered-failures.ts';

export interface OutlookOptions {
  readonly metadata: MetadataStore;
  readonly failures: RememberedFailures;
  readonly rule: PullRule;
  readonly isOffline: boolean;
  readonly nowMs: number;
}

/** What a pull of a tag or a digest would come to, as far as its right allows it: sentences for people. */
export async function outlook(
  repository: Repository,
  reference: string,
  right: Right,
  options: OutlookOptions,
): Promise<readonly string[]> {
  const held = isDigest(reference)
    ? await ofDigest(repository, reference, options)
    : await ofTag(repository, reference, options);
  return [held, ...waits(repository, reference, right, options)];
}

async function ofDigest(
  repository: Repository,
  digest: string,
  { metadata, rule, isOffline }: OutlookOptions,
): Promise<string> {
  const isHeld = isDigest(digest) && (await metadata.readLinkedManifest(repository, digest)) !== undefined;
  if (isHeld) return `${digest} is held, and served as it is`;
  return rule.pullPolicy === 'Never' ? notAsked(digest, isOffline) : asked(digest);
}

async function ofTag(
  repository: Repository,
  tag: string,
  { metadata, rule, isOffline, nowMs }: OutlookOptions,
): Promise<string> {
  const tagged = await metadata.readTagged(repository, tag);
  const { manifest } = tagged ?? {};
  const ageMs = manifest && tagged && nowMs - tagged.tag.checkedAtMs;
  const freshness = freshnessOf(tag, ageMs, rule);
  if (manifest === undefined || ageMs === undefined) {
    return freshness === 'never' ? notAsked(tag, isOffline) : asked(tag);
  }
  const said = ageMs < 0 ? 'later than now' : `${durationText(ageMs)} ago`;
  const known = `${tag} is held as ${manifest.digest}, which upstream said ${said}`;
  const policy = rule.pullPolicy ?? defaultPullPolicy({ tag });
  switch (freshness) {
    case 'never':
      return `${known}; it is served as it is, and upstream is not asked (${isOffline ? 'offline' : policy})`;
    case 'ask':
      return `${known}; the next pull asks upstream what it means now (${policy === 'Always' ? policy : 'freshFor is over'})`;
    case 'serve-and-ask':
      return `${known}; it is served as it is, and upstream is asked behind that (staleWhileRevalidate)`;
    case 'serve':
      break;
  }
  return `${known}; it is served as it is ${restText(rule, ageMs)}`;
}

function restText({ pullPolicy, freshForMs }: PullRule, ageMs: number): string {
  if (pullPolicy !== undefined) return `(${pullPolicy})`;
  const isForEver = freshForMs === Number.POSITIVE_INFINITY;
  return isForEver ? '(freshFor: forever)' : `for another ${durationText(freshForMs - ageMs)} (freshFor)`;
}

function asked(reference: string): string {
  return `${reference} is not held: the next pull asks upstream for it`;
}

function notAsked(reference: string, isOffline: boolean): string {
  return `${reference} is not held, and upstream is not asked (${isOffline ? 'offline' : 'Never'})`;
}

/** What failed a moment ago, for each credential that may be tried. */
function waits(
  { upstream, name }: Repository,
  reference: string,
  { credentials }: Right,
  { failures }: OutlookOptions,
): readonly string[] {
  return credentials.flatMap(credential => {
    const key = { upstream, repository: name, reference, credentialId: credentialId(credential) };
    const failure = failures.recall(key);
    if (failure === undefined) return [];
    const wait = durationText(failure.retryAfterMs ?? 0);
    const whose = credential === undefined ? '' : ` as ${credential.username}`;
    return [`upstream is not asked again${whose} for ${wait}: ${failure.message}`];
  });
}

function durationText(ms: number): string {
  return formatDuration(Math.ceil(ms / 1000) * 1000);
}
