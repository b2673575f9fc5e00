import { parsePlatform } from '../oci/platform.ts';
import { parseNormalizedReference } from '../oci/reference.ts';

/** Whether a text is an image reference. */
export function isReference(text: string): boolean {
  return isRead(() => parseNormalizedReference(text));
}

/** Whether a text is a platform, as in a list of images. */
export function isPlatform(text: string): boolean {
  return isRead(() => parsePlatform(text));
}

function isRead(read: () => unknown): boolean {
  try {
    read();
    return true;
  } catch {
    return false;
  }
}
