/**
 * prepull/: which images a set of workloads needs, and bringing or finding all of each. May import metadata/, oci/ and
 * lib/; where content comes from is a `PullSource`, handed in.
 */
import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { parseYamlDocuments } from '../lib/yaml.ts';
import { parsePlatform } from '../oci/platform.ts';
import { parseNormalizedReference } from '../oci/reference.ts';

/** `kubectl get pods --all-namespaces -o yaml` of a thousand pods. */
const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Charts that give a label twice are installed every day. */
const LIST_LIMITS = { maxBytes: MAX_LIST_BYTES, mayRepeatKeys: true };
/** Kubernetes' own objects are some dozen levels deep; templates within templates some more. */
const MAX_DEPTH = 64;

/** Where Kubernetes keeps the containers of a pod, in a pod itself and in every template of one. */
const CONTAINER_LISTS = ['containers', 'initContainers', 'ephemeralContainers'] as const;

/** What a line of Kubernetes' YAML or JSON has, one of them at least: it begins an entry or a document, or has a key. */
const YAML_LINE = /^[-[{]|:(?:\s|$)/;

/** What a list says in place of platforms for all that an image has. */
export const ALL_PLATFORMS = 'all';

/** What an image that a text names is wanted for, in sum. */
export interface ImageUses {
  /** The RuntimeClasses of the pods that use it; `undefined` stands for those of the usual one. */
  readonly runtimeClasses: ReadonlySet<string | undefined>;
  /** The platforms that a list names with it, as they stand there, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

/** Of an image that is named and nothing else. */
export const USUAL_USES: ImageUses = { runtimeClasses: new Set([undefined]), platforms: new Set() };

/** What an image is wanted for that two places name. */
export function together(one: ImageUses, other: ImageUses): ImageUses {
  return {
    runtimeClasses: new Set([...one.runtimeClasses, ...other.runtimeClasses]),
    platforms: new Set([...one.platforms, ...other.platforms]),
  };
}

/** What a text says of images. */
export interface ImageList {
  /** By their names, as they stand there. */
  readonly images: ReadonlyMap<string, ImageUses>;
  /** The handlers of the RuntimeClasses that are among its objects, by their names. */
  readonly handlers: ReadonlyMap<string, string>;
}

/**
 * The images that a text names: a list with one image a line, which may end with platforms (`#` begins a comment), or
 * YAML or JSON documents with Kubernetes objects of any kind (`helm template`, `kubectl get … -o yaml`), in which every
 * container and every image volume counts, however deep it lies. Throws YamlError for what is neither.
 */
export function imagesIn(text: string): ImageList {
  const images = new ListedImages();
  const listed = imagesOfList(text);
  if (listed === undefined) {
    for (const { value } of parseYamlDocuments(text, LIST_LIMITS)) images.collect(value);
  } else {
    for (const line of listed) images.addLine(line);
  }
  return images;
}

const UNUSED: ImageUses = { runtimeClasses: new Set(), platforms: new Set() };

class ListedImages implements ImageList {
  readonly images = new Map<string, ImageUses>();
  readonly handlers = new Map<string, string>();

  /** A name, perhaps with platforms behind it: `nginx:1.27 linux/amd64,linux/arm64`. */
  addLine(line: string): void {
    const { name, platforms } = readLine(line);
    this.#add(name, platforms.length === 0 ? USUAL_USES : { ...UNUSED, platforms: new Set(platforms) });
  }

  #add(name: string, uses: ImageUses): void {
    this.images.set(name, together(this.images.get(name) ?? UNUSED, uses));
  }

  /** A document: an object or objects of Kubernetes, or a list of names. */
  collect(document: unknown): void {
    if (!Array.isArray(document)) return this.#walk(document, 0);
    for (const entry of document) {
      if (typeof entry === 'string') this.addLine(entry);
      else this.#walk(entry, 0);
    }
  }

  #walk(value: unknown, depth: number): void {
    if (depth > MAX_DEPTH) return;
    if (Array.isArray(value)) {
      for (const entry of value) this.#walk(entry, depth + 1);
    } else if (isJsonObject(value)) {
      this.#addPod(value);
      this.#addHandler(value);
      for (const member of Object.values(value)) this.#walk(member, depth + 1);
    }
  }

  /** Whatever has containers or volumes is taken for the spec of a pod. */
  #addPod(spec: JsonObject): void {
    const { runtimeClassName } = spec;
    const runtimeClass = typeof runtimeClassName === 'string' ? runtimeClassName : undefined;
    const images = [
      ...CONTAINER_LISTS.flatMap(list => objectsIn(spec[list])).map(container => container['image']),
      ...objectsIn(spec['volumes']).map(({ image }) =>
        isJsonObject(image) ? image['reference'] : undefined,
      ),
    ];
    for (const image of images) {
      if (isNamed(image)) this.#add(image, { ...UNUSED, runtimeClasses: new Set([runtimeClass]) });
    }
  }

  #addHandler({ kind, metadata, handler }: JsonObject): void {
    const name = kind === 'RuntimeClass' && isJsonObject(metadata) ? metadata['name'] : undefined;
    if (typeof name === 'string' && typeof handler === 'string') this.handlers.set(name, handler);
  }
}

/** `undefined` when a line is YAML: then it is no list. A line that is neither is an image whose name is wrong. */
function imagesOfList(text: string): readonly string[] | undefined {
  const lines = text.split(/\r?\n/).map(line => line.replace(/(?:^|\s)#.*$/, '').trim());
  const images = lines.filter(line => line !== '');
  return images.every(mayBeOfList) ? images : undefined;
}

function mayBeOfList(line: string): boolean {
  return isReference(readLine(line).name) || !YAML_LINE.test(line);
}

/** What does not end with platforms is a name as a whole, if a wrong one. */
function readLine(line: string): { readonly name: string; readonly platforms: readonly string[] } {
  const [name = '', last = '', ...more] = line.split(/\s+/);
  const platforms = last.split(',');
  const isWhole = more.length > 0 || !platforms.every(one => one === ALL_PLATFORMS || isPlatform(one));
  return isWhole ? { name: line, platforms: [] } : { name, platforms };
}

function isPlatform(text: string): boolean {
  return isRead(() => parsePlatform(text));
}

function isReference(text: string): boolean {
  return isRead(() => parseNormalizedReference(text));
}

function isRead(read: () => unknown): boolean {
  try {
    read();
    return true;
  } catch {
    return false;
  }
}

function objectsIn(value: unknown): readonly JsonObject[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : [];
}

/** Kubernetes takes an absent image and an empty one for the same: someone fills it in later. */
function isNamed(image: unknown): image is string {
  return typeof image === 'string' && image.trim() !== '';
}
