import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { isReference } from './reference-text.ts';
import { type PodPlacement, placementsOf } from './pod-placement.ts';

/** Kubernetes' own objects are some dozen levels deep; nested templates a little more. */
const MAX_DEPTH = 64;

/** The containers of a pod, and of every template of one. */
const CONTAINER_LISTS = ['containers', 'initContainers', 'ephemeralContainers'] as const;

/** How custom resources name a field with an image: image, imageName, sidecarImage. */
const IMAGE_KEY = /^(?:image|\w*Image)(?:Name)?$/;
/** How operators name variables with images that they start (RELATED_IMAGE_ is the Operator Framework's). */
const IMAGE_VARIABLE = /^RELATED_IMAGE_|_IMAGE$/;
/** `--config-reloader-image=quay.io/…` */
const IMAGE_FLAG = /^--[\w.-]*image[\w.-]*=(.+)$/i;

/** Called with what is found, and its place: `Deployment web/shop: spec.template.spec.containers[0]`. */
export interface ImageVisitor {
  /** The image of a container or an image volume. */
  image(name: string, placements: readonly PodPlacement[], place: string): void;
  /** A value that parses as an image, where custom resources and operators have images. */
  likelyImage(name: string, place: string): void;
  /** A field that should contain an image and contains something else, or nothing (`undefined`). */
  unreadImage(text: string | undefined, place: string): void;
  /** A RuntimeClass. */
  handler(runtimeClass: string, handler: string): void;
}

/** Finds the images in a document with Kubernetes objects of any kind, at any depth. */
export function visitImages(document: unknown, visitor: ImageVisitor): void {
  new Walk(visitor).visit(document, { owner: '', path: '' }, 0);
}

/** An object with a kind and a name, and the path within it. */
interface Place {
  readonly owner: string;
  readonly path: string;
}

class Walk {
  readonly #visitor: ImageVisitor;
  /** Containers and image volumes, whose images are not guesses. */
  readonly #known = new Set<JsonObject>();

  constructor(visitor: ImageVisitor) {
    this.#visitor = visitor;
  }

  visit(value: unknown, place: Place, depth: number): void {
    if (depth > MAX_DEPTH) {
      this.#visitor.unreadImage('(nested too deep)', text(place));
    } else if (Array.isArray(value)) {
      value.forEach((entry, index) => {
        this.visit(entry, { ...place, path: `${place.path}[${index}]` }, depth + 1);
      });
    } else if (isJsonObject(value)) {
      this.#visitObject(value, { ...place, ...ownerOf(value) }, depth);
    } else if (typeof value === 'string') {
      const named = IMAGE_FLAG.exec(value)?.[1];
      if (named !== undefined) this.#guess(named, place);
    }
  }

  #visitObject(object: JsonObject, place: Place, depth: number): void {
    this.#visitPod(object, place);
    this.#visitRuntimeClass(object);
    if (!this.#known.has(object)) this.#guessFields(object, place);
    for (const [key, member] of Object.entries(object)) this.visit(member, inner(place, key), depth + 1);
  }

  /** Any object with containers or volumes is treated as the spec of a pod. */
  #visitPod(spec: JsonObject, place: Place): void {
    const containers = CONTAINER_LISTS.flatMap(list =>
      objectsIn(spec[list], inner(place, list)).map(({ object, at }) => ({
        object,
        name: object['name'],
        at,
        image: object['image'],
      })),
    );
    const volumes = objectsIn(spec['volumes'], inner(place, 'volumes')).flatMap(({ object, at }) => {
      const { image } = object;
      return isJsonObject(image)
        ? [{ object: image, name: object['name'], at: inner(at, 'image'), image: image['reference'] }]
        : [];
    });
    const found = [...containers, ...volumes];
    if (found.length === 0) return;
    const placements = placementsOf(spec);
    for (const { object, name, at, image } of found) {
      this.#known.add(object);
      // To Kubernetes an empty image is the same as none: something else fills it in later.
      if (typeof image === 'string' && image.trim() !== '') this.#visitor.image(image, placements, text(at));
      else this.#visitor.unreadImage(textOf(image), namedPlace(at, name));
    }
  }

  #visitRuntimeClass({ kind, metadata, handler }: JsonObject): void {
    const name = kind === 'RuntimeClass' && isJsonObject(metadata) ? metadata['name'] : undefined;
    if (typeof name === 'string' && typeof handler === 'string') this.#visitor.handler(name, handler);
  }

  #guessFields(object: JsonObject, place: Place): void {
    for (const [key, value] of Object.entries(object)) {
      if (IMAGE_KEY.test(key) && typeof value === 'string') this.#guess(value, inner(place, key));
    }
    const parts = imageOfParts(object);
    if (parts !== undefined) this.#guess(parts, inner(place, 'repository'));
    const { name, value } = object;
    if (typeof name === 'string' && IMAGE_VARIABLE.test(name) && typeof value === 'string') {
      this.#guess(value, inner(place, `value (${name})`));
    }
  }

  #guess(name: string, place: Place): void {
    if (name.trim() === '') return;
    if (isReference(name)) this.#visitor.likelyImage(name, text(place));
    else this.#visitor.unreadImage(name, text(place));
  }
}

/** The form that charts and many custom resources use: `{registry, repository, tag | digest}`. */
function imageOfParts({ registry, repository, tag, digest }: JsonObject): string | undefined {
  if (typeof repository !== 'string' || repository === '') return undefined;
  const hasTag = (typeof tag === 'string' && tag !== '') || typeof tag === 'number';
  const suffix = typeof digest === 'string' && digest !== '' ? `@${digest}` : hasTag ? `:${tag}` : undefined;
  if (suffix === undefined) return undefined;
  return `${typeof registry === 'string' && registry !== '' ? `${registry}/` : ''}${repository}${suffix}`;
}

function ownerOf({ kind, metadata }: JsonObject): Place | undefined {
  if (typeof kind !== 'string' || !isJsonObject(metadata)) return undefined;
  const { name, namespace } = metadata;
  if (typeof name !== 'string') return undefined;
  return { owner: `${kind} ${typeof namespace === 'string' ? `${namespace}/` : ''}${name}`, path: '' };
}

function objectsIn(value: unknown, place: Place): readonly { object: JsonObject; at: Place }[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((object: unknown, index) =>
    isJsonObject(object) ? [{ object, at: { ...place, path: `${place.path}[${index}]` } }] : [],
  );
}

function inner({ owner, path }: Place, key: string): Place {
  return { owner, path: path === '' ? key : `${path}.${key}` };
}

/** What is there instead of an image; `undefined` for nothing. */
function textOf(image: unknown): string | undefined {
  if (image === undefined || image === null || typeof image === 'string') return undefined;
  return JSON.stringify(image);
}

/** The place of a container or volume, with its name. */
function namedPlace(place: Place, name: unknown): string {
  return typeof name === 'string' && name !== '' ? `${text(place)}, ${name}` : text(place);
}

function text({ owner, path }: Place): string {
  return [owner, path].filter(part => part !== '').join(': ');
}
