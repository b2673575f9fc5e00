import { collectBytes } from '../../lib/collect-bytes.ts';
import { HttpClient } from '../../lib/http-client.ts';
import type { HttpRequest } from '../../lib/http-message.ts';
import { parseJsonObject } from '../../lib/json.ts';
import { requireTextFile, textFileTrouble } from '../../lib/text-file.ts';
import { S3Failure } from './s3-failure.ts';
import type { CredentialsSettings } from './settings.ts';
import type { SigningKeys } from './signature.ts';
import { xmlText } from './xml.ts';

/** Keys, and when they expire. */
interface Lent {
  readonly keys: SigningKeys;
  readonly untilMs: number;
}

/** Temporary keys are renewed this long before they expire. */
const RENEW_BEFORE_MS = 300_000;
/** How long keys that are about to end are used before another attempt to renew them: each S3 request would wait for it. */
const RENEW_AGAIN_MS = 15_000;
/** How long a file is not read again; it may be rotated. */
const FILE_KEPT_MS = 60_000;
/** How long the token for the metadata service is valid, in seconds: used for two requests. */
const METADATA_TOKEN_S = '60';
const METADATA_URL = 'http://169.254.169.254';
/** Documents with keys are a few KiB. */
const MAX_ANSWER_BYTES = 64 * 1024;
/** A file of many profiles is a few KiB, and so is a token. */
const MAX_FILE_BYTES = 1 << 20;
const LIMITS = { connectMs: 2_000, headersMs: 5_000, idleBodyMs: 5_000 };

/** The keys that sign requests, renewed before they expire. */
export class Credentials {
  readonly #settings: CredentialsSettings;
  readonly #region: string;
  readonly #client = new HttpClient(LIMITS);
  #lent: Lent | undefined;
  #renewing: Promise<Lent> | undefined;
  /** When keys that are about to end may be renewed. */
  #renewAtMs = 0;

  constructor(settings: CredentialsSettings, region: string) {
    this.#settings = settings;
    this.#region = region;
  }

  /**
   * Throws an S3Failure if there are none. A failure to renew them has no effect until S3 refuses them, see `refused`: if
   * the clock of this machine is wrong, only S3 knows when they have ended.
   */
  async current(): Promise<SigningKeys> {
    const lent = this.#lent;
    const renewAtMs = Math.max((lent?.untilMs ?? 0) - RENEW_BEFORE_MS, this.#renewAtMs);
    if (lent !== undefined && Date.now() < renewAtMs) return lent.keys;
    this.#renewing ??= this.#load().finally(() => {
      this.#renewing = undefined;
      this.#renewAtMs = Date.now() + RENEW_AGAIN_MS;
    });
    try {
      this.#lent = await this.#renewing;
    } catch (error) {
      if (lent === undefined) throw error;
      return lent.keys;
    }
    return this.#lent.keys;
  }

  /** Call when S3 has refused `keys`: they are loaded again. */
  refused(keys: SigningKeys): void {
    if (this.#lent?.keys === keys) this.#lent = undefined;
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #load(): Promise<Lent> {
    const { from } = this.#settings;
    try {
      if (from === 'file') return await this.#fromFile();
      if (from === 'webIdentity') return await this.#fromWebIdentity();
      if (from === 'instance') return await this.#fromInstance();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new S3Failure(`no credentials for S3 (storage.s3.credentials: ${from}): ${reason}`, {
        isUnsigned: true,
        cause: error,
      });
    }
    const { keys } = this.#settings;
    if (keys === undefined) {
      throw new S3Failure(
        'no credentials for S3 (storage.s3.credentials: env): AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set',
        { isUnsigned: true },
      );
    }
    return { keys, untilMs: Number.POSITIVE_INFINITY };
  }

  async #fromFile(): Promise<Lent> {
    const { file = '' } = this.#settings;
    const values = profileOf(await readKeys(file));
    const keys = keysOf(
      values['aws_access_key_id'],
      values['aws_secret_access_key'],
      values['aws_session_token'],
    );
    if (keys === undefined) {
      throw new Error(`${file} has no aws_access_key_id and aws_secret_access_key in its first profile`);
    }
    return { keys, untilMs: Date.now() + RENEW_BEFORE_MS + FILE_KEPT_MS };
  }

  /** https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html */
  async #fromWebIdentity(): Promise<Lent> {
    const { role, tokenFile, stsUrl = `https://sts.${this.#region}.amazonaws.com` } = this.#settings;
    if (role === undefined || tokenFile === undefined) {
      throw new Error('AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are not set');
    }
    const form = new URLSearchParams({
      Action: 'AssumeRoleWithWebIdentity',
      Version: '2011-06-15',
      RoleArn: role,
      RoleSessionName: 'entrepot',
      WebIdentityToken: (await requireTextFile(tokenFile, MAX_FILE_BYTES)).trim(),
    });
    const answer = await this.#ask({
      method: 'POST',
      url: new URL(stsUrl),
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: Buffer.from(form.toString()),
      // It only issues keys, and changes nothing.
      isIdempotent: true,
    });
    return lentOf(name => xmlText(answer, name), 'SessionToken');
  }

  /** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html */
  async #fromInstance(): Promise<Lent> {
    const { metadataUrl = METADATA_URL } = this.#settings;
    const token = await this.#ask({
      method: 'PUT',
      url: new URL('/latest/api/token', metadataUrl),
      headers: { 'x-aws-ec2-metadata-token-ttl-seconds': METADATA_TOKEN_S },
    });
    const headers = { 'x-aws-ec2-metadata-token': token };
    const folder = new URL('/latest/meta-data/iam/security-credentials/', metadataUrl);
    const role = (await this.#ask({ method: 'GET', url: folder, headers })).trim();
    const url = new URL(encodeURIComponent(role), folder);
    const answer = parseJsonObject(Buffer.from(await this.#ask({ method: 'GET', url, headers })));
    return lentOf(name => {
      const value = answer?.[name];
      return typeof value === 'string' ? value : undefined;
    }, 'Token');
  }

  async #ask(request: HttpRequest): Promise<string> {
    const { status, body } = await this.#client.request(request);
    const text = Buffer.from(
      await collectBytes(body, MAX_ANSWER_BYTES, () => new Error('the answer is too long')),
    ).toString();
    if (status !== 200) {
      const code = xmlText(text, 'Code') ?? '';
      throw new Error(`${request.url.host} answers ${status} ${code}`.trim());
    }
    return text;
  }
}

async function readKeys(file: string): Promise<string> {
  try {
    return await requireTextFile(file, MAX_FILE_BYTES);
  } catch (error) {
    throw new Error(
      `${file} (storage.s3.credentialsFile) ${textFileTrouble(error)}. The user of the server must be able to ` +
        'read it, and it must contain aws_access_key_id and aws_secret_access_key',
      { cause: error },
    );
  }
}

function lentOf(value: (name: string) => string | undefined, tokenName: string): Lent {
  const keys = keysOf(value('AccessKeyId'), value('SecretAccessKey'), value(tokenName));
  const untilMs = Date.parse(value('Expiration') ?? '');
  if (keys === undefined || Number.isNaN(untilMs)) throw new Error('the answer has no keys');
  return { keys, untilMs };
}

function keysOf(
  accessKeyId: string | undefined,
  secretAccessKey: string | undefined,
  sessionToken: string | undefined,
): SigningKeys | undefined {
  if (!accessKeyId || !secretAccessKey) return undefined;
  return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
}

/** The values of `[default]`, or else of the first profile, of a file as AWS's tools write it. */
function profileOf(text: string): Record<string, string> {
  const profiles = new Map<string, Record<string, string>>();
  let name = 'default';
  for (const line of text.split('\n')) {
    const [, heading] = /^\s*\[\s*(?:profile\s+)?([^\]]+?)\s*\]\s*$/.exec(line) ?? [];
    if (heading !== undefined) name = heading;
    const [, key, value] = /^\s*([a-z_]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (key === undefined || value === undefined) continue;
    profiles.set(name, { ...profiles.get(name), [key]: value });
  }
  return profiles.get('default') ?? [...profiles.values()][0] ?? {};
}
