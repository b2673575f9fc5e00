/**
 * prepull/: finds the images that workloads need, and pulls or checks them. May import metadata/, oci/ and lib/;
 * content comes from a `PullSource`, which is passed in.
 */
import { parseYamlDocuments, type YamlDocument } from '../lib/yaml.ts';
import { ANY_NODE, type PodPlacement } from './pod-placement.ts';
import { isReference, platformFault, referenceFault } from './reference-text.ts';
import { type ImageVisitor, visitImages } from './workload-images.ts';

/** Enough for `kubectl get pods --all-namespaces -o yaml` with a thousand pods. */
export const MAX_LIST_BYTES = 16 * 1024 * 1024;
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

/** An entry of a list that names no image. */
export interface MalformedEntry {
  /** From 1. */
  readonly line: number;
  /** What is wrong, with the text that is. */
  readonly fault: string;
}

/** A value that should be an image. */
interface UnreadImage {
  readonly text: string | undefined;
  readonly place: string;
}

/** The images that a text names. A place says where in which object: `Deployment web/shop: spec.template.spec.…`. */
export interface ImageList {
  /** By name as written. */
  readonly images: ReadonlyMap<string, ImageUses>;
  /** The first place of each image that an object names. */
  readonly places: ReadonlyMap<string, string>;
  /** Values that look like images, in fields whose meaning is not known, with their first place. */
  readonly likely: ReadonlyMap<string, string>;
  /** Values that should be images and are not, with their places; `undefined` where there is none. */
  readonly unread: readonly UnreadImage[];
  /** Entries of a list that name no image. */
  readonly malformed: readonly MalformedEntry[];
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
    for (const document of parseYamlDocuments(text, LIST_LIMITS)) images.collect(document);
  } else {
    for (const { text: entry, line } of listed) images.addEntry(entry, line);
  }
  return images;
}

class ListedImages implements ImageList, ImageVisitor {
  readonly images = new Map<string, ImageUses>();
  readonly places = new Map<string, string>();
  readonly handlers = new Map<string, string>();
  readonly unread: UnreadImage[] = [];
  readonly malformed: MalformedEntry[] = [];
  readonly #likely = new Map<string, string>();

  get likely(): ReadonlyMap<string, string> {
    return new Map([...this.#likely].filter(([name]) => !this.images.has(name)));
  }

  /** A name, optionally followed by platforms: `nginx:1.27 linux/amd64,linux/arm64`. */
  addEntry(text: string, line: number): void {
    const { name, platforms, fault } = readEntry(text);
    if (fault !== undefined) return void this.malformed.push({ line, fault });
    this.#add(name, platforms.length === 0 ? USUAL_USES : { ...UNUSED, platforms: new Set(platforms) });
  }

  /** A document: one or more Kubernetes objects, or a list of names. */
  collect({ value, lineOf }: YamlDocument): void {
    if (!Array.isArray(value)) return visitImages(value, this);
    for (const [at, entry] of value.entries()) {
      if (typeof entry === 'string') this.addEntry(entry.trim(), lineOf([at]) ?? 1);
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

  unreadImage(text: string | undefined, place: string): void {
    this.unread.push({ text, place });
  }

  handler(runtimeClass: string, handler: string): void {
    this.handlers.set(runtimeClass, handler);
  }

  #add(name: string, uses: ImageUses): void {
    this.images.set(name, together(this.images.get(name) ?? UNUSED, uses));
  }
}

interface ListLine {
  readonly text: string;
  /** From 1. */
  readonly line: number;
}

/** The lines of a list; `undefined` if a line is YAML. One that is neither is a malformed entry. */
function imagesOfList(text: string): readonly ListLine[] | undefined {
  const lines = text
    .split(/\r?\n/)
    .map((line, at) => ({ text: line.replace(/(?:^|\s)#.*$/, '').trim(), line: at + 1 }))
    .filter(line => line.text !== '');
  return lines.every(line => mayBeOfList(line.text)) ? lines : undefined;
}

function mayBeOfList(text: string): boolean {
  const [name = ''] = text.split(/\s+/, 1);
  return !YAML_LINE.test(text) || isReference(name);
}

interface Entry {
  readonly name: string;
  readonly platforms: readonly string[];
  /** Set if the entry is malformed. */
  readonly fault: string | undefined;
}

function readEntry(text: string): Entry {
  const [name = '', last, ...more] = text.split(/\s+/);
  const platforms = last?.split(',') ?? [];
  const faults = [
    more.length === 0 ? undefined : `expected an image and optionally platforms: ${shortText(text)}`,
    referenceFault(name),
    ...platforms.map(one => (one === ALL_PLATFORMS ? undefined : platformFault(one))),
  ];
  return { name, platforms, fault: faults.find(fault => fault !== undefined) };
}

/** Enough to recognize it. */
const LONGEST_SHOWN = 100;

function shortText(text: string): string {
  return JSON.stringify(text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text);
}
