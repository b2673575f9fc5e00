import { OciError } from './errors.ts';

/** A platform (OCI image-spec, image-index.md "platform"). */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly 'os.version'?: string;
  readonly 'os.features'?: readonly string[];
}

/** A child of an index, as far as its platform is concerned: a Descriptor. */
export interface PlatformChild {
  readonly platform?: Platform;
  readonly annotations?: Readonly<Record<string, string>>;
}

/**
 * How containerd matches platforms. `only`: whatever the host can run, including 32-bit and older variants. `strict`:
 * that platform alone. `windows`: whatever a Windows host can run, newest first.
 */
export type PlatformMatcher = 'only' | 'strict' | 'windows';

/** The platform if none is given. */
export const DEFAULT_PLATFORM: Platform = { os: 'linux', architecture: 'amd64' };

/**
 * `os/arch` or `os/arch/variant`, optionally with `:os.version` at the end or, as in containerd,
 * `(os.version+feature+…)` after the os, in which ambiguous characters are percent-encoded (Homebrew has the OS version
 * `macOS 13`).
 */
const SPECIFIER =
  /^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?\/([A-Za-z0-9_.-]+)(?:\/([A-Za-z0-9_.-]+))?(?::([A-Za-z0-9_.-]+))?$/;

/** An option that needs no percent-encoding. */
const PLAIN_OPTION = /^[A-Za-z0-9_.-]*$/;

/** Real platforms have up to some 40 characters. */
const MAX_SPECIFIER_LENGTH = 255;

/** The annotation by which BuildKit marks children of an index that are not images. */
export const REFERENCE_TYPE = 'vnd.docker.reference.type';

/** Builds of Windows Server 2022 and 2025, whose containers later hosts can run; oldest first. */
const STABLE_WINDOWS_BUILDS = [20348, 26100] as const;

/**
 * The newest known minor version of arm64, by major version. A v9 host also runs what v8 with a minor five higher runs.
 */
const MAX_ARM64_MINOR: Readonly<Record<number, number>> = { 8: 9, 9: 7 };

/** The normalized platform that `text` denotes. Throws QUERY_INVALID. */
export function parsePlatform(text: string): Platform {
  const match = text.length > MAX_SPECIFIER_LENGTH ? null : SPECIFIER.exec(text);
  if (match === null) throw noPlatform(text);
  const [, os = '', versionOfOs, features = '', architecture = '', variant, version = versionOfOs] = match;
  const [, ...options] = features.split('+');
  try {
    return normalizePlatform({
      os,
      architecture,
      ...(variant && { variant }),
      ...(version && { 'os.version': decodeURIComponent(version) }),
      ...(options.length > 0 && { 'os.features': options.map(decodeURIComponent) }),
    });
  } catch (error) {
    throw error instanceof URIError ? noPlatform(text) : error;
  }
}

/**
 * The platform as text that `parsePlatform` reads: `os/arch[/variant][:os.version]`, or containerd's form if that
 * cannot express it.
 */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant, 'os.version': version = '', 'os.features': features = [] } = platform;
  const rest = `/${architecture}${variant ? `/${variant}` : ''}`;
  if (features.length === 0 && PLAIN_OPTION.test(version)) return `${os}${rest}${version && `:${version}`}`;
  return `${os}(${[version, ...[...features].sort()].map(encodeOption).join('+')})${rest}`;
}

/** Replaces common aliases: lower case, `x86_64` by amd64, `aarch64` by arm64, `arm` by arm/v7, and so on. */
export function normalizePlatform(platform: Platform): Platform {
  const { os, architecture, variant = '', ...rest } = platform;
  const lowerOs = os.toLowerCase();
  const [arch, canonicalVariant] = normalizeArchitecture(architecture.toLowerCase(), variant.toLowerCase());
  const features = rest['os.features'];
  return {
    ...rest,
    os: lowerOs === 'macos' ? 'darwin' : lowerOs || DEFAULT_PLATFORM.os,
    architecture: arch,
    ...(canonicalVariant && { variant: canonicalVariant }),
    ...(features && { 'os.features': [...new Set(features)].sort() }),
  };
}

/** Whether a child of an index is an attestation (provenance, SBOM) of another child, and not an image. */
export function isAttestation({ platform, annotations }: PlatformChild): boolean {
  const isUnknown = platform?.os === 'unknown' && platform.architecture === 'unknown';
  return isUnknown || annotations?.[REFERENCE_TYPE] === 'attestation-manifest';
}

/** The matcher that a host of `platform` uses. */
export function naturalMatcher(platform: Platform): PlatformMatcher {
  return normalizePlatform(platform).os === 'windows' ? 'windows' : 'only';
}

/**
 * The children of an index that suit `wanted`, best first, by containerd's rules; only the first is pulled. Children
 * without a platform come last. `configPlatform` returns the platform in the config of such a child, if known, which
 * then must suit.
 */
export function choosePlatform<Child extends PlatformChild>(
  children: readonly Child[],
  wanted: Platform,
  matcher: PlatformMatcher = naturalMatcher(wanted),
  configPlatform: (child: Child) => Platform | undefined = () => undefined,
): readonly Child[] {
  const host = normalizePlatform(wanted);
  const accepted = (matcher === 'only' ? runnable(host) : [host]).map(acceptor);
  const rank = (platform: Platform) => {
    // Once for all of them: a client may ask for a variant below which there are a hundred others.
    const entry = normalizePlatform(platform.os === '' ? { ...platform, os: host.os } : platform);
    return accepted.findIndex(accepts => accepts(entry));
  };
  const suits = (platform: Platform | undefined) => platform === undefined || rank(platform) !== -1;

  const candidates = children.filter(child => !isAttestation(child));
  const withPlatform = candidates.flatMap(child => {
    const order = child.platform === undefined ? -1 : rank(child.platform);
    return order === -1 ? [] : [{ child, order, platform: child.platform }];
  });
  withPlatform.sort((a, b) => {
    if (matcher === 'windows') return compareText(b.platform?.['os.version'], a.platform?.['os.version']);
    return a.order - b.order || featureCount(b.platform) - featureCount(a.platform);
  });
  const withoutPlatform = candidates.filter(
    child => child.platform === undefined && suits(configPlatform(child)),
  );
  return [...withPlatform.map(({ child }) => child), ...withoutPlatform];
}

function noPlatform(text: string): OciError {
  const shown = JSON.stringify(text.slice(0, MAX_SPECIFIER_LENGTH));
  return new OciError('QUERY_INVALID', {
    message: `${shown} is not a platform: os/arch[/variant][:os.version]`,
  });
}

/**
 * Percent-encoded UTF-8, as `decodeURIComponent` reads it. Unlike `encodeURIComponent` it does not throw for lone
 * surrogates.
 */
function encodeOption(text: string): string {
  const bytes = Buffer.from(text).toString('latin1');
  return bytes.replace(/[^A-Za-z0-9_.-]/g, byte => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

function normalizeArchitecture(
  architecture: string,
  variant: string,
): [architecture: string, variant: string] {
  switch (architecture) {
    case 'i386':
      return ['386', ''];
    case 'x86_64':
    case 'x86-64':
    case 'amd64':
      return ['amd64', variant === 'v1' ? '' : variant];
    case 'aarch64':
    case 'arm64':
      if (['8', 'v8', 'v8.0'].includes(variant)) return ['arm64', ''];
      return ['arm64', ['9', '9.0', 'v9.0'].includes(variant) ? 'v9' : variant];
    case 'armhf':
      return ['arm', 'v7'];
    case 'armel':
      return ['arm', 'v6'];
    case 'arm':
      if (variant === '') return ['arm', 'v7'];
      return ['arm', ['5', '6', '7', '8'].includes(variant) ? `v${variant}` : variant];
    default:
      return [architecture, variant];
  }
}

/** The platforms that a host of the normalized platform `host` can run, best first. */
function runnable(host: Platform): readonly Platform[] {
  return variants(host.architecture, host.variant ?? '').map(([architecture, variant]) => {
    const { variant: _, ...rest } = host;
    return normalizePlatform({ ...rest, architecture, variant });
  });
}

function variants(architecture: string, variant: string): readonly [architecture: string, variant: string][] {
  const own: [string, string] = [architecture, variant];
  if (architecture === 'amd64') return [own, ...below('amd64', variant, 1), ['386', '']];
  if (architecture === 'arm') return [own, ...below('arm', variant, 5)];
  if (architecture === 'arm64') return arm64Variants(variant);
  return [own];
}

/** The variants from `variant` down to `lowest`. None for more than two digits, which nobody uses. */
function below(architecture: string, variant: string, lowest: number): [string, string][] {
  const [, digits = '0'] = /^v?(\d{1,2})$/.exec(variant) ?? [];
  return descending(Number(digits) - 1, lowest).map(version => [architecture, `v${version}`]);
}

function arm64Variants(variant: string): readonly [architecture: string, variant: string][] {
  const [, majorDigit, minorDigit = '0'] = /^v([89])(?:\.(\d))?$/.exec(variant || 'v8') ?? [];
  const major = Number(majorDigit);
  const minor = Number(minorDigit);
  if (majorDigit === undefined || minor > (MAX_ARM64_MINOR[major] ?? 0)) return [];
  const older = major === 9 ? arm64Minors(8, Math.min(minor + 5, 9)) : [];
  return [...arm64Minors(major, minor), ...older, ...variants('arm', 'v8')];
}

function arm64Minors(major: number, newest: number): [string, string][] {
  return descending(newest, 0).map(minor => ['arm64', minor === 0 ? `v${major}` : `v${major}.${minor}`]);
}

/** A test for the normalized entries that are exactly what `host` is. */
function acceptor(host: Platform): (entry: Platform) => boolean {
  const features = new Set(host['os.features']);
  return ({ os, architecture, variant, 'os.version': version, 'os.features': wanted = [] }) => {
    const isWindows = os === 'windows';
    return (
      os === host.os &&
      architecture === host.architecture &&
      variant === host.variant &&
      (!isWindows || runsWindows(host['os.version'], version)) &&
      wanted.every(feature => features.has(feature) || (isWindows && feature === 'win32k'))
    );
  };
}

/** Whether a Windows host can run containers of another version. An unknown version on either side is no obstacle. */
function runsWindows(host: string | undefined, entry: string | undefined): boolean {
  const hostVersion = windowsVersion(host);
  if (hostVersion === undefined || !entry) return true;
  const version = windowsVersion(entry);
  if (version === undefined || version.release !== hostVersion.release) return false;
  const [firstStable] = STABLE_WINDOWS_BUILDS;
  if (hostVersion.build < firstStable) return version.build === hostVersion.build;
  const oldest = STABLE_WINDOWS_BUILDS.findLast(build => build < hostVersion.build) ?? firstStable;
  return oldest <= version.build && version.build <= hostVersion.build;
}

function windowsVersion(text: string | undefined): { release: string; build: number } | undefined {
  const [, major, minor, build] = /^(\d+)\.(\d+)\.(\d+)(?:\.|$)/.exec(text ?? '') ?? [];
  if (Number(major) > 255 || Number(minor) > 255 || Number(build) > 65535) return undefined;
  return build === undefined
    ? undefined
    : { release: `${Number(major)}.${Number(minor)}`, build: Number(build) };
}

function featureCount(platform: Platform | undefined): number {
  return platform?.['os.features']?.length ?? 0;
}

function compareText(a = '', b = ''): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** `from`, `from - 1`, … down to `to`; empty if `from` is less than `to`. */
function descending(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, from - to + 1) }, (_, step) => from - step);
}
