/**
 * prepull/: finds the images that workloads need, and pulls or checks them. May import metadata/, oci/ and lib/;
 * content comes from a `PullSource`, which is passed in.
 */
import { parseYamlDocuments } from '../lib/yaml.ts';
import { ANY_NODE, type PodPlacement } from './pod-placement.ts';
import { isPlatform, isReference } from './reference-text.ts';
import { type ImageVisitor, visitImages } from './workload-images.ts';

/** Enough for `kubectl get pods --all-namespaces -o yaml` with a thousand pods. */
const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Repeated keys are allowed: charts that set a label twice are common. */
const LIST_LIMITS = { maxBytes: MAX_LIST_BYTES, mayRepeatKeys: true };

/**
 * A line with YAML or JSON of Kubernetes: it begins an entry or a document, or has a key. At least one line of a
 * document does.
 */
const YAML_LINE = /^[-[{]|:(?:\s|$)/;

/** Stands for all platforms of an image, in a list. */
export const ALL_PLATFORMS = 'all';

/** What an image is needed for, from all places that name it. */
export interface ImageUses {
  /** The placements of the pods that use it, without duplicates. */
  readonly placements: ReadonlyMap<string, PodPlacement>;
  /** The platforms that a list gives for it, as written, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

const UNUSED: ImageUses = { placements: new Map(), platforms: new Set() };

/** For an image of which only the name is given. */
export const USUAL_USES: ImageUses = usedBy([ANY_NODE]);

function usedBy(placements: readonly PodPlacement[]): ImageUses {
  return { ...UNUSED, placements: new Map(placements.map(one => [JSON.stringify(one), one])) };
}

/** The combined uses of an image that is named in two places. */
export function together(one: ImageUses, other: ImageUses): ImageUses {
  return {
    placements: new Map([...one.placements, ...other.placements]),
    platforms: new Set([...one.platforms, ...other.platforms]),
  };
}

/** The images that a text names. A place says where in which object: `Deployment web/shop: spec.template.spec.…`. */
export interface ImageList {
  /** By name as written. */
  readonly images: ReadonlyMap<string, ImageUses>;
  /** The first place of each image that an object names. */
  readonly places: ReadonlyMap<string, string>;
  /** Values that look like images, in fields whose meaning is not known, with their first place. */
  readonly likely: ReadonlyMap<string, string>;
  /** Values that should be images and are not, with their places. */
  readonly unread: readonly { readonly text: string; readonly place: string }[];
  /** The handlers of the RuntimeClasses among the objects, by name. */
  readonly handlers: ReadonlyMap<string, string>;
}

/**
 * Finds the images in a text: a list with one image per line, optionally followed by platforms (`#` begins a comment),
 * or YAML or JSON documents with Kubernetes objects of any kind (`helm template`, `kubectl get … -o yaml`), in which
 * every container and image volume counts, at any depth. Throws YamlError if it is neither.
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

  /** A name, optionally followed by platforms: `nginx:1.27 linux/amd64,linux/arm64`. */
  addLine(line: string): void {
    const { name, platforms } = readLine(line);
    this.#add(name, platforms.length === 0 ? USUAL_USES : { ...UNUSED, platforms: new Set(platforms) });
  }

  /** A document: one or more Kubernetes objects, or a list of names. */
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

/**
 * The lines of a list; `undefined` if a line is YAML. A line that is neither counts as an image with an invalid name.
 */
function imagesOfList(text: string): readonly string[] | undefined {
  const lines = text.split(/\r?\n/).map(line => line.replace(/(?:^|\s)#.*$/, '').trim());
  const images = lines.filter(line => line !== '');
  return images.every(mayBeOfList) ? images : undefined;
}

function mayBeOfList(line: string): boolean {
  return isReference(readLine(line).name) || !YAML_LINE.test(line);
}

/** Without valid platforms at its end, the whole line is the name, even if that is invalid. */
function readLine(line: string): { readonly name: string; readonly platforms: readonly string[] } {
  const [name = '', last = '', ...more] = line.split(/\s+/);
  const platforms = last.split(',');
  const isWhole = more.length > 0 || !platforms.every(one => one === ALL_PLATFORMS || isPlatform(one));
  return isWhole ? { name: line, platforms: [] } : { name, platforms };
}
