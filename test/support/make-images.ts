// Makes the images that many tests of real clients use, so that these find them: `tsx test/support/make-images.ts`.
import { imageLayout } from './images.ts';

console.log(await imageLayout());
