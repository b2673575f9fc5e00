/**
 * prepull/: which images a set of workloads needs, and bringing or finding all of each. May import metadata/, oci/ and
 * lib/; where content comes from is a `PullSource`, handed in.
 */
import { isJsonObject } from '../lib/json.ts';
import { parseYamlDocuments } from '../lib/yaml.ts';
import { parseNormalizedReference } from '../oci/reference.ts';

/** `kubectl get pods --all-namespaces -o yaml` of a thousand pods. */
const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Kubernetes' own objects are some dozen levels deep; templates within templates some more. */
const MAX_DEPTH = 64;

/** Where Kubernetes keeps the containers of a pod, in a pod itself and in every template of one. */
const CONTAINER_LISTS = ['containers', 'initContainers', 'ephemeralContainers'] as const;

/**
 * The images that a text names, as they stand there, each once: a list with one image a line (`#` begins a comment), or
 * YAML or JSON documents with Kubernetes objects of any kind (`helm template`, `kubectl get … -o yaml`), in which every
 * container and every image volume counts, however deep it lies. Throws YamlError for what is neither.
 */
export function imagesIn(text: string): readonly string[] {
  const listed = imagesOfList(text);
  if (listed !== undefined) return listed;
  const images = new Set<string>();
  for (const { value } of parseYamlDocuments(text, { maxBytes: MAX_LIST_BYTES })) collect(value, images, 0);
  return [...images];
}

/** `undefined` when a line is no image: then it is no list. */
function imagesOfList(text: string): readonly string[] | undefined {
  const lines = text.split('\n').map(line => line.replace(/(?:^|\s)#.*$/, '').trim());
  const images = lines.filter(line => line !== '');
  return images.every(isReference) ? [...new Set(images)] : undefined;
}

function isReference(text: string): boolean {
  try {
    parseNormalizedReference(text);
    return true;
  } catch {
    return false;
  }
}

function collect(value: unknown, images: Set<string>, depth: number): void {
  if (depth > MAX_DEPTH) return;
  if (Array.isArray(value)) {
    for (const entry of value) {
      if (depth === 0 && typeof entry === 'string') images.add(entry);
      collect(entry, images, depth + 1);
    }
    return;
  }
  if (!isJsonObject(value)) return;
  for (const image of CONTAINER_LISTS.flatMap(list => listOf(value[list])).map(
    container => container['image'],
  )) {
    if (isNamed(image)) images.add(image);
  }
  for (const volume of listOf(value['volumes'])) {
    const reference = isJsonObject(volume['image']) ? volume['image']['reference'] : undefined;
    if (isNamed(reference)) images.add(reference);
  }
  for (const member of Object.values(value)) collect(member, images, depth + 1);
}

function listOf(value: unknown): Readonly<Record<string, unknown>>[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : [];
}

/** Kubernetes takes an absent image and an empty one for the same: someone fills it in later. */
function isNamed(image: unknown): image is string {
  return typeof image === 'string' && image.trim() !== '';
}
