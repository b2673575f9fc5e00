/**
 * prepull/: which images a set of workloads needs, and bringing or finding all of each. May import metadata/, oci/ and
 * lib/; where content comes from is a `PullSource`, handed in.
 */
import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { parseYamlDocuments } from '../lib/yaml.ts';
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

/** An image that a text names, as it stands there. */
export interface ListedImage {
  readonly name: string;
  /** The RuntimeClasses of the pods that use it; `undefined` stands for those of the usual one. */
  readonly runtimeClasses: ReadonlySet<string | undefined>;
}

/** What a text says of images. */
export interface ImageList {
  /** Each once. */
  readonly images: readonly ListedImage[];
  /** The handlers of the RuntimeClasses that are among its objects, by their names. */
  readonly handlers: ReadonlyMap<string, string>;
}

/**
 * The images that a text names: a list with one image a line (`#` begins a comment), or YAML or JSON
 * documents with Kubernetes objects of any kind (`helm template`, `kubectl get … -o yaml`), in which every container
 * and every image volume counts, however deep it lies. Throws YamlError for what is neither.
 */
export function imagesIn(text: string): ImageList {
  const images = new ListedImages();
  const listed = imagesOfList(text);
  if (listed === undefined) {
    for (const { value } of parseYamlDocuments(text, LIST_LIMITS)) images.collect(value);
  } else {
    for (const name of listed) images.add(name, undefined);
  }
  return { images: images.all(), handlers: images.handlers };
}

class ListedImages {
  readonly handlers = new Map<string, string>();
  readonly #classes = new Map<string, Set<string | undefined>>();

  all(): readonly ListedImage[] {
    return [...this.#classes].map(([name, runtimeClasses]) => ({ name, runtimeClasses }));
  }

  add(name: string, runtimeClass: string | undefined): void {
    const classes = this.#classes.get(name) ?? new Set();
    this.#classes.set(name, classes.add(runtimeClass));
  }

  /** A document: an object or objects of Kubernetes, or a list of names. */
  collect(document: unknown): void {
    if (!Array.isArray(document)) return this.#walk(document, 0);
    for (const entry of document) {
      if (typeof entry === 'string') this.add(entry, undefined);
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
    const runtimeClass = spec['runtimeClassName'];
    const images = [
      ...CONTAINER_LISTS.flatMap(list => objectsIn(spec[list])).map(container => container['image']),
      ...objectsIn(spec['volumes']).map(({ image }) =>
        isJsonObject(image) ? image['reference'] : undefined,
      ),
    ];
    for (const image of images) {
      if (isNamed(image)) this.add(image, typeof runtimeClass === 'string' ? runtimeClass : undefined);
    }
  }

  #addHandler({ kind, metadata, handler }: JsonObject): void {
    const name = kind === 'RuntimeClass' && isJsonObject(metadata) ? metadata['name'] : undefined;
    if (typeof name === 'string' && typeof handler === 'string') this.handlers.set(name, handler);
  }
}

/** `undefined` when a line is YAML: then it is no list. A line that is neither is an image whose name is wrong. */
function imagesOfList(text: string): readonly string[] | undefined {
  const lines = text.split('\n').map(line => line.replace(/(?:^|\s)#.*$/, '').trim());
  const images = lines.filter(line => line !== '');
  return images.every(line => isReference(line) || !YAML_LINE.test(line)) ? images : undefined;
}

function isReference(text: string): boolean {
  try {
    parseNormalizedReference(text);
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
