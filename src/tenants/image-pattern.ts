import { isGlob, LabelGlob } from './label-glob.ts';

/** The location in an image name or a credential's key, as Go's `url.Parse` splits it. */
export interface ImageLocation {
  /** With its port, if any; percent-decoded. */
  readonly host: string;
  /** Percent-decoded; '' or beginning with a slash. */
  readonly path: string;
}

const CONTROL_CHARACTER = /[^ -~\u0080-\u{10ffff}]/u;
/** The characters that Go allows unescaped in a host. */
const HOST = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:[\]<>"\u0080-\u{10ffff}]|%[0-9A-Fa-f]{2})*$/u;
const USER_INFO = /^[A-Za-z0-9\-._:~!$&'()*+,;=%@]*$/;
const OPTIONAL_PORT = /^(?::[0-9]*)?$/;
const BAD_ESCAPE = /%(?![0-9A-Fa-f]{2})/;
/** In a host only bytes beyond ASCII, and `%` itself, may be percent-encoded. */
const BAD_HOST_ESCAPE = /%(?!25|[89A-Fa-f][0-9A-Fa-f])/;

/**
 * Parses `text`, which has no scheme, like the kubelet's keyring: user info, query and fragment are dropped, host and
 * path are percent-decoded. `undefined` if Go would not parse it.
 */
export function parseImageLocation(text: string): ImageLocation | undefined {
  const [beforeFragment, fragment] = cut(text, '#');
  const [address] = cut(beforeFragment, '?');
  if (CONTROL_CHARACTER.test(beforeFragment) || BAD_ESCAPE.test(fragment)) return undefined;
  const slash = address.indexOf('/');
  const authority = slash === -1 ? address : address.slice(0, slash);
  const path = slash === -1 ? '' : address.slice(slash);
  const at = authority.lastIndexOf('@');
  const userInfo = authority.slice(0, Math.max(at, 0));
  const host = authority.slice(at + 1);
  const isValid =
    USER_INFO.test(userInfo) && !BAD_ESCAPE.test(userInfo) && isHost(host) && !BAD_ESCAPE.test(path);
  return isValid ? { host: percentDecode(host), path: percentDecode(path) } : undefined;
}

/** An image name, prepared for matching with many patterns. */
export interface ImageTarget {
  /** What the host of a pattern without globs must equal. */
  readonly literalHost: string;
  /** Port and number of labels, which every matching pattern has in common. */
  readonly shape: string;
  readonly labels: readonly string[];
  readonly path: string;
}

/** `image` prepared for `ImagePattern.matches`; `undefined` if Go cannot parse it. */
export function parseImageTarget(image: string): ImageTarget | undefined {
  const location = parseImageLocation(image);
  return location && { ...splitHost(location.host), path: location.path };
}

/**
 * A registry or a part of one to which a credential belongs. The ports must be the same text, there must be equally
 * many labels and each must match its glob, and the path is a textual prefix.
 */
export class ImagePattern {
  /** The host of every image that matches; `undefined` if there are globs. */
  readonly literalHost: string | undefined;
  /** The shape of every image that matches. */
  readonly shape: string;
  readonly #path: string;
  /** Empty if there are no globs. */
  readonly #labels: readonly LabelGlob[];

  private constructor({ literalHost, shape, labels, path }: ImageTarget) {
    const hasGlobs = labels.some(isGlob);
    this.literalHost = hasGlobs ? undefined : literalHost;
    this.shape = shape;
    this.#path = path;
    this.#labels = hasGlobs ? labels.map(label => new LabelGlob(label)) : [];
  }

  /** `undefined` for what Go cannot parse, which the kubelet skips. */
  static parse(text: string): ImagePattern | undefined {
    const target = parseImageTarget(text);
    return target && new ImagePattern(target);
  }

  matches(image: ImageTarget): boolean {
    if (image.shape !== this.shape || !image.path.startsWith(this.#path)) return false;
    if (this.literalHost !== undefined) return this.literalHost === image.literalHost;
    return this.#labels.every((glob, index) => glob.matches(image.labels[index] ?? ''));
  }
}

/** Labels and port by Go's `net.SplitHostPort`; what that refuses has no port. `reg:` is `reg`. */
function splitHost(text: string): Omit<ImageTarget, 'path'> {
  const [, bracketed, plain, port = ''] = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^[\]:]*)$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? text;
  const labels = host.split('.');
  return { literalHost: `${host} ${port}`, shape: `${labels.length} ${port}`, labels };
}

function isHost(host: string): boolean {
  if (!HOST.test(host)) return false;
  if (host.startsWith('[')) {
    const close = host.lastIndexOf(']');
    return close !== -1 && OPTIONAL_PORT.test(host.slice(close + 1)) && !BAD_HOST_ESCAPE.test(host);
  }
  const colon = host.lastIndexOf(':');
  const port = colon === -1 ? '' : host.slice(colon);
  return OPTIONAL_PORT.test(port) && !BAD_HOST_ESCAPE.test(host);
}

function percentDecode(text: string): string {
  if (!text.includes('%')) return text;
  const bytes = Buffer.from(text, 'utf8').toString('latin1');
  const decoded = bytes.replaceAll(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return Buffer.from(decoded, 'latin1').toString('utf8');
}

function cut(text: string, separator: string): [before: string, after: string] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}
