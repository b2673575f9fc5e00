import { parsePlatform } from '../oci/platform.ts';
import { parseNormalizedReference } from '../oci/reference.ts';

/** Whether a text is an image reference. */
export function isReference(text: string): boolean {
  return referenceFault(text) === undefined;
}

/** Why a text is not an image reference; `undefined` if it is one. */
export function referenceFault(text: string): string | undefined {
  return faultOf(() => parseNormalizedReference(text));
}

/** Why a text is not a platform, as in a list of images; `undefined` if it is one. */
export function platformFault(text: string): string | undefined {
  return faultOf(() => parsePlatform(text));
}

function faultOf(read: () => unknown): string | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
