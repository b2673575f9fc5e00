// A registry at the end of a slow line, with Entrepot in front of it, and a meter on each side: what upstream sent, and what
// clients received, headers included.
import { DockerRegistry } from './docker-registry.ts';
import { Entrepot } from './entrepot.ts';
import { UPSTREAM } from './mirrored-registry.ts';
import { TcpLink } from './tcp-link.ts';

export interface Metered {
  /** From the origin, to whoever asked it. */
  readonly upstreamBytes: number;
  /** From Entrepot to its clients. */
  readonly clientBytes: number;
}

export class MeteredMirror {
  readonly origin: DockerRegistry;
  readonly entrepot: Entrepot;
  readonly #upstreamLink: TcpLink;
  readonly #clientLink: TcpLink;

  private constructor(
    origin: DockerRegistry,
    upstreamLink: TcpLink,
    entrepot: Entrepot,
    clientLink: TcpLink,
  ) {
    this.origin = origin;
    this.#upstreamLink = upstreamLink;
    this.entrepot = entrepot;
    this.#clientLink = clientLink;
  }

  /** `bytesPerS` is what all connections to the origin have together. */
  static async start(bytesPerS: number): Promise<MeteredMirror> {
    const origin = await DockerRegistry.start();
    const upstreamLink = await TcpLink.open(portOf(origin.url), bytesPerS);
    // A tag keeps for longer than the tests take: none of what upstream sends is about tags.
    const upstream = { url: `http://127.0.0.1:${upstreamLink.port}`, freshFor: '1h' };
    const entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: upstream } });
    const clientLink = await TcpLink.open(portOf(entrepot.url), Number.POSITIVE_INFINITY);
    return new MeteredMirror(origin, upstreamLink, entrepot, clientLink);
  }

  /** What an image is called when a client asks the origin for it. */
  direct(image: string): string {
    return `127.0.0.1:${this.#upstreamLink.port}/${image}`;
  }

  /** What an image is called when a client asks Entrepot for it. */
  mirrored(image: string): string {
    return `127.0.0.1:${this.#clientLink.port}/${UPSTREAM}/${image}`;
  }

  /** Starts to count; what it returns tells what was sent since. */
  meter(): () => Metered {
    const [upstreamBefore, clientBefore] = [this.#upstreamLink.bytes, this.#clientLink.bytes];
    return () => ({
      upstreamBytes: this.#upstreamLink.bytes - upstreamBefore,
      clientBytes: this.#clientLink.bytes - clientBefore,
    });
  }

  async remove(): Promise<void> {
    await this.#clientLink.close();
    await this.entrepot.remove();
    await this.#upstreamLink.close();
    await this.origin.remove();
  }
}

function portOf(url: string): number {
  return Number(new URL(url).port);
}
