// Stands for a process of the tests: starts a daemon, tells its pid, and would stay for ever.
import { Daemon } from './programs.ts';

const daemon = await Daemon.start({ program: 'sleep', args: ['1000'], isReady: async () => true });
process.send?.(daemon.pid);
