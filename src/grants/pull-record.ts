/** A Kubernetes object for which a pull was recorded. All three identify it. */
export interface ObjectCoordinates {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
}

/** A pull secret, with the hash of the credential in it that was used; '' if it could not be hashed. */
export interface RecordedSecret extends ObjectCoordinates {
  readonly credentialHash: string;
}

/** With what a repository was pulled, and so who has proved a right to it. An absent member is empty or false. */
export interface PullCredentials {
  readonly kubernetesSecrets?: readonly RecordedSecret[];
  readonly kubernetesServiceAccounts?: readonly ObjectCoordinates[];
  /** Set if everybody may have it: it was pulled anonymously, or with a credential that everybody has. */
  readonly nodePodsAccessible?: boolean;
}

/** The record of a pulled image (kubelet.config.k8s.io, ImagePulledRecord), without the time. */
export interface PulledRecord {
  /** The id of the content. */
  readonly imageRef: string;
  /** By repository, normalized, without tag and digest: the same content in another repository is another right. */
  readonly credentialMapping?: Readonly<Record<string, PullCredentials>>;
}

/** The credential with which a pull succeeded. */
export type UsedCredential =
  | { readonly from: 'secret'; readonly secret: ObjectCoordinates; readonly hash: string }
  | { readonly from: 'serviceAccount'; readonly serviceAccount: ObjectCoordinates }
  | { readonly from: 'node-config' };

/** What a pull with `used` proves; `undefined` for an anonymous pull. */
export function credentialsToRecord(used: UsedCredential | undefined): PullCredentials {
  if (used?.from === 'secret') {
    const { uid, namespace, name } = used.secret;
    return { kubernetesSecrets: [{ uid, namespace, name, credentialHash: used.hash }] };
  }
  if (used?.from === 'serviceAccount') return { kubernetesServiceAccounts: [used.serviceAccount] };
  return { nodePodsAccessible: true };
}

/**
 * `record` with `added` under `repository`; the same object if nothing changes. Access for everybody is never narrowed.
 * Otherwise entries are added without duplicates and in a fixed order, and those of the other kind are kept.
 * `undefined` credentials are unknown and prove nothing.
 */
export function mergeCredentials(
  record: PulledRecord,
  repository: string,
  added: PullCredentials | undefined,
): PulledRecord {
  const before = record.credentialMapping?.[repository];
  const after = added && merged(before, added);
  if (after === undefined || after === before) return record;
  return { ...record, credentialMapping: { ...record.credentialMapping, [repository]: after } };
}

/** The record after a successful pull of `repository`; the same object if nothing changes. */
export function recordImagePulled(
  record: PulledRecord | undefined,
  imageRef: string,
  repository: string,
  credentials: PullCredentials | undefined,
): PulledRecord {
  if (record !== undefined) return mergeCredentials(record, repository, credentials);
  return { imageRef, credentialMapping: credentials === undefined ? {} : { [repository]: credentials } };
}

/** Whether both identify the same object. */
export function isSameObject(a: ObjectCoordinates, b: ObjectCoordinates): boolean {
  return a.uid === b.uid && a.namespace === b.namespace && a.name === b.name;
}

function merged(before: PullCredentials | undefined, added: PullCredentials): PullCredentials | undefined {
  const { kubernetesSecrets: secrets = [], kubernetesServiceAccounts: accounts = [] } = added;
  const isForAll = added.nodePodsAccessible === true;
  if (!isForAll && secrets.length === 0 && accounts.length === 0) return before;
  if (before === undefined) return added;
  if (before.nodePodsAccessible === true) return before;
  if (isForAll) return { nodePodsAccessible: true };
  if (secrets.length > 0) {
    const kubernetesSecrets = union(before.kubernetesSecrets ?? [], secrets);
    return kubernetesSecrets && { ...before, kubernetesSecrets };
  }
  const kubernetesServiceAccounts = union(before.kubernetesServiceAccounts ?? [], accounts);
  return kubernetesServiceAccounts && { ...before, kubernetesServiceAccounts };
}

/** Both lists as one; of the same object, the later entry. `undefined` if the second list adds nothing. */
function union<Entry extends ObjectCoordinates & { readonly credentialHash?: string }>(
  known: readonly Entry[],
  added: readonly Entry[],
): readonly Entry[] | undefined {
  const isKnown = (entry: Entry) =>
    known.some(other => isSameObject(other, entry) && other.credentialHash === entry.credentialHash);
  if (added.every(isKnown)) return undefined;
  const byObject = new Map([...known, ...added].map(entry => [sortKey(entry), entry]));
  return [...byObject].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry);
}

/** Sorts by namespace, name and UID, none of which can contain a NUL. */
function sortKey({ namespace, name, uid }: ObjectCoordinates): string {
  return [namespace, name, uid].join('\0');
}
