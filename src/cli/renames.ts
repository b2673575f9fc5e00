import { parseNormalizedReference, referenceName, referenceText } from '../oci/reference.ts';
import { CommandError, EXIT, type Input } from './command.ts';
import { commaList } from './list-options.ts';

/** What `--rename` makes of names: as given in full, or by its repository, keeping tag and digest. */
export class Renames {
  readonly #pairs = new Map<string, string>();
  readonly #used = new Set<string>();
  readonly #only: string | undefined;
  #uses = 0;

  constructor(input: Input) {
    for (const text of commaList(input, 'rename')) {
      const [from = '', to, ...more] = text.split('=');
      if (more.length > 0 || to === '') throw new CommandError(`${text} is not OLD=NEW`, EXIT.usage);
      if (to === undefined) this.#only = from;
      else this.#pairs.set(canonical(from), to);
    }
    if (this.#only !== undefined && this.#pairs.size > 0) throw notTheOnly();
  }

  /** The old names that nothing was called by. */
  get unused(): readonly string[] {
    return [...this.#pairs.keys()].filter(name => !this.#used.has(name));
  }

  nameOf(name: string | undefined): string | undefined {
    if (this.#only !== undefined) return this.#onlyName(this.#only, name);
    if (name === undefined) return undefined;
    const { tag, digest, ...named } = parseNormalizedReference(name);
    const whole = this.#newName(canonical(name));
    if (whole !== undefined) return whole;
    const repository = this.#newName(referenceName(named));
    if (repository === undefined) return name;
    return `${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
  }

  #newName(old: string): string | undefined {
    const name = this.#pairs.get(old);
    if (name !== undefined) this.#used.add(old);
    return name;
  }

  #onlyName(only: string, name: string | undefined): string | undefined {
    // What has no name besides may be a signature of the one.
    if (this.#uses === 1 && name === undefined) return undefined;
    this.#uses += 1;
    if (this.#uses > 1) throw notTheOnly();
    return only;
  }
}

function notTheOnly(): CommandError {
  return new CommandError('--rename NEW is for an archive with one image', EXIT.usage);
}

function canonical(name: string): string {
  return referenceText(parseNormalizedReference(name));
}
