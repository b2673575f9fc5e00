// Makes the images that many tests of real clients use, and the snapshotter of nodes that pull lazily, so that these find
// them: `tsx test/support/make-images.ts`.
import { imageLayout } from './images.ts';
import { buildSnapshotter } from './lazy-node.ts';

const [layout] = await Promise.all([imageLayout(), buildSnapshotter()]);
console.log(layout);
