// Makes the images that tests of real clients use, so that these find them: `tsx test/support/make-images.ts`.
import { debianWithNode, imageLayout } from './images.ts';

console.log(await imageLayout());
console.log(await debianWithNode());
