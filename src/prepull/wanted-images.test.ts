import { expect, it } from 'vitest';
import { InvalidImageList, wantedImages } from './wanted-images.ts';

async function* list(): AsyncIterable<Uint8Array> {
  yield Buffer.from('docker.io/library/ngi');
  yield Buffer.from('nx:1\n');
}

it('reads no more of a file than a list may have, and takes the images of the others', async () => {
  let isClosed = false;
  async function* endless(): AsyncIterable<Uint8Array> {
    try {
      for (;;) yield Buffer.alloc(1024 * 1024, '#');
    } finally {
      isClosed = true;
    }
  }
  const { images, unread } = await wantedImages(
    { images: [], from: ['/dev/zero', 'list.txt'] },
    {
      open: file => (file === 'list.txt' ? list() : endless()),
      shown: file => file,
      takesLikely: false,
      tell: () => {},
    },
  );
  expect(images.map(({ name }) => name)).toEqual(['docker.io/library/nginx:1']);
  expect([...unread]).toEqual([['/dev/zero', new InvalidImageList('/dev/zero is larger than 16MiB')]]);
  expect(isClosed).toBe(true);
});
