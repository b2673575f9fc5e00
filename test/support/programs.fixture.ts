// Stands for a process of the tests, which would stay for ever: starts a daemon and tells its pid, or tells so many ports.
import { Daemon, freePort } from './programs.ts';

const [what] = process.argv.slice(2);

if (what === 'daemon') {
  const daemon = await Daemon.start({ program: 'sleep', args: ['1000'], isReady: async () => true });
  process.send?.(daemon.pid);
} else {
  process.send?.(await Promise.all(Array.from({ length: Number(what) }, () => freePort())));
}
