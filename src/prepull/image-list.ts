/**
 * prepull/: which images a set of workloads needs, and bringing or finding all of each. May import metadata/, oci/ and
 * lib/; where content comes from is a `PullSource`, handed in.
 */
import { parseYamlDocuments } from '../lib/yaml.ts';
import { ANY_NODE, type PodPlacement } from './pod-placement.ts';
import { isPlatform, isReference } from './reference-text.ts';
import { type ImageVisitor, visitImages } from './workload-images.ts';

/** `kubectl get pods --all-namespaces -o yaml` of a thousand pods. */
const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Charts that give a label twice are installed every day. */
const LIST_LIMITS = { maxBytes: MAX_LIST_BYTES, mayRepeatKeys: true };

/** What a line of Kubernetes' YAML or JSON has, one of them at least: it begins an entry or a document, or has a key. */
const YAML_LINE = /^[-[{]|:(?:\s|$)/;

/** What a list says in place of platforms for all that an image has. */
export const ALL_PLATFORMS = 'all';

/** What an image that a text names is wanted for, in sum. */
export interface ImageUses {
  /** Of the pods that use it, each once, by what they say. */
  readonly placements: ReadonlyMap<string, PodPlacement>;
  /** The platforms that a list names with it, as the list spells them, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

const UNUSED: ImageUses = { placements: new Map(), platforms: new Set() };

/** Of an image that is named and nothing else. */
export const USUAL_USES: ImageUses = usedBy([ANY_NODE]);

function usedBy(placements: readonly PodPlacement[]): ImageUses {
  return { ...UNUSED, placements: new Map(placements.map(one => [JSON.stringify(one), one])) };
}

/** What an image is wanted for that two places name. */
export function together(one: ImageUses, other: ImageUses): ImageUses {
  return {
    placements: new Map([...one.placements, ...other.placements]),
    platforms: new Set([...one.platforms, ...other.platforms]),
  };
}

/** What a text says of images. Places are where in which object: `Deployment web/shop: spec.template.spec.…`. */
export interface ImageList {
  /** By their names, as the text spells them. */
  readonly images: ReadonlyMap<string, ImageUses>;
  /** The place of each image that an object names, its first one. */
  readonly places: ReadonlyMap<string, string>;
  /** What is an image by all appearances, in fields that only their own operators know, with its first place. */
  readonly likely: ReadonlyMap<string, string>;
  /** What should be an image and is not, with its place. */
  readonly unread: readonly { readonly text: string; readonly place: string }[];
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

class ListedImages implements ImageList, ImageVisitor {
  readonly images = new Map<string, ImageUses>();
  readonly places = new Map<string, string>();
  readonly handlers = new Map<string, string>();
  readonly unread: { readonly text: string; readonly place: string }[] = [];
  readonly #likely = new Map<string, string>();

  get likely(): ReadonlyMap<string, string> {
    return new Map([...this.#likely].filter(([name]) => !this.images.has(name)));
  }

  /** A name, perhaps with platforms behind it: `nginx:1.27 linux/amd64,linux/arm64`. */
  addLine(line: string): void {
    const { name, platforms } = readLine(line);
    this.#add(name, platforms.length === 0 ? USUAL_USES : { ...UNUSED, platforms: new Set(platforms) });
  }

  /** A document: an object or objects of Kubernetes, or a list of names. */
  collect(document: unknown): void {
    if (!Array.isArray(document)) return visitImages(document, this);
    for (const entry of document) {
      if (typeof entry === 'string') this.addLine(entry);
      else visitImages(entry, this);
    }
  }

  image(name: string, placements: readonly PodPlacement[], place: string): void {
    this.#add(name, usedBy(placements));
    if (!this.places.has(name)) this.places.set(name, place);
  }

  likelyImage(name: string, place: string): void {
    if (!this.#likely.has(name)) this.#likely.set(name, place);
  }

  unreadImage(text: string, place: string): void {
    this.unread.push({ text, place });
  }

  handler(runtimeClass: string, handler: string): void {
    this.handlers.set(runtimeClass, handler);
  }

  #add(name: string, uses: ImageUses): void {
    this.images.set(name, together(this.images.get(name) ?? UNUSED, uses));
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
