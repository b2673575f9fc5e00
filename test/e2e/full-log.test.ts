// A log whose disk is full: /dev/full takes nothing.
import { existsSync } from 'node:fs';
import { expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';

it.skipIf(!existsSync('/dev/full')).each(['json', 'pretty'])(
  'a server that cannot write its log (%s) serves, and stops cleanly',
  async format => {
    const entrepot = await Entrepot.start(
      { log: { format }, audit: { output: 'file', auditFile: '/dev/full' } },
      { within: ['sh', '-c', 'exec "$0" "$@" >/dev/full'] },
    );
    for (let count = 0; count < 100; count += 1) {
      expect((await get(`${entrepot.url}/v2/nothing/manifests/v1`)).status).toBe(404);
    }
    await entrepot.stop();
    expect([entrepot.exitCode, entrepot.logs()]).toEqual([0, '']);
    await entrepot.remove();
  },
);
