import { ArchiveError } from '../archive/archive-error.ts';
import { parseNormalizedReference, referenceName, referenceText } from '../oci/reference.ts';
import { CommandError, EXIT, type Input } from './command.ts';
import { commaList } from './list-options.ts';

/** How many names a message lists. */
const MAX_NAMES = 5;

/** What `--rename` makes of names: as given in full, or by its repository, keeping tag and digest. */
export class Renames {
  readonly #pairs = new Map<string, string>();
  readonly #used = new Set<string>();
  readonly #only: string | undefined;
  readonly #names = new Set<string>();
  #uses = 0;
  /** Whether the names in `unused` were already reported in a refusal. */
  #isReported = false;

  constructor(input: Input) {
    for (const text of commaList(input, 'rename')) {
      const [from = '', to, ...more] = text.split('=');
      if (more.length > 0 || to === '') throw new CommandError(`${text} is not OLD=NEW`, EXIT.usage);
      if (to === undefined) this.#only = from;
      else this.#pairs.set(canonical(from), to);
    }
    if (this.#only !== undefined && this.#pairs.size > 0) throw notTheOnly();
  }

  /** Old names that no image had, and that were not reported yet. */
  get unreported(): readonly string[] {
    return this.#isReported ? [] : this.#unused;
  }

  /**
   * Call after the images of the last archive were renamed. Throws ArchiveError if no image had an old name, which may
   * be mistyped: the image would be published under the wrong name.
   */
  requireAllUsed(): void {
    const unused = this.#unused;
    if (unused.length === 0) return;
    this.#isReported = true;
    const names = [...this.#names].slice(0, MAX_NAMES).join(', ');
    const more = this.#names.size > MAX_NAMES ? ', …' : '';
    throw new ArchiveError(
      `--rename: no image has the name ${unused.join(', ')} (the images are ${names}${more})`,
    );
  }

  get #unused(): readonly string[] {
    return [...this.#pairs.keys()].filter(name => !this.#used.has(name));
  }

  nameOf(name: string | undefined): string | undefined {
    if (this.#only !== undefined) return this.#onlyName(this.#only, name);
    if (name === undefined) return undefined;
    const { tag, digest, ...named } = parseNormalizedReference(name);
    this.#names.add(canonical(name));
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
    // An image without a name may be a signature of the named one.
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
