// What is to be here before anybody asks, and what is missing of it.
import type { BundleDocument } from '../../admin/documents/bundles.ts';
import type { PrepullDocument, PrepullImageDocument } from '../../admin/documents/prepull.ts';
import { param, setParams } from '../address.ts';
import { useDocument } from '../use-document.ts';
import { bytesText, numberText } from '../format.ts';
import { ActionButton, begin, Tasks } from '../parts/action.tsx';
import { List, Loaded } from '../parts/loaded.tsx';
import type { Column } from '../parts/table.tsx';
import { Ago, Badge, CommandLine, Empty, Name } from '../parts/text.tsx';

export function AirGapScreen() {
  const isMissing = param('show') === 'missing';
  const shown = useDocument<PrepullDocument>('prepull?limit=1', { images: () => undefined });
  return (
    <>
      <Tasks actions={['pull']} />
      <div class="columns">
        <section class="card">
          <h2>Pre-pull</h2>
          <Loaded shown={shown}>
            {({ total, schedule, nextRun, from, offline }) => (
              <>
                <dl class="facts">
                  <dt>Images</dt>
                  <dd>{numberText(total)}</dd>
                  <dt>Pulled</dt>
                  <dd>
                    {schedule === null ? 'only by command' : schedule}
                    {nextRun !== null && (
                      <>
                        , next <Ago at={nextRun} />
                      </>
                    )}
                  </dd>
                  <dt>Upstreams</dt>
                  <dd>{offline ? 'not asked: offline' : 'asked'}</dd>
                </dl>
                {from.length > 0 && (
                  <ul class="notes">
                    {from.map(({ file, problem }) => (
                      <li class={`note ${problem === null ? '' : 'warn'}`} key={file}>
                        <code>{file}</code> {problem}
                      </li>
                    ))}
                  </ul>
                )}
              </>
            )}
          </Loaded>
        </section>
        <section class="card">
          <h2>Across the gap</h2>
          <CommandLine label="At the site: list what it has" text="entrepot have -o HAVE.json" />
          <CommandLine
            label="Here: bundle the rest"
            text="entrepot export --have HAVE.json --from images.txt -o bundle.tar"
          />
          <CommandLine label="At the site: take it in" text="entrepot import bundle.tar" />
        </section>
      </div>
      <section class="card">
        <div class="actions">
          <h2>Images of the lists</h2>
          <label class="check">
            <input
              type="checkbox"
              checked={isMissing}
              onChange={event =>
                setParams({ show: event.currentTarget.checked ? 'missing' : undefined, after: undefined })
              }
            />
            Only what is missing
          </label>
        </div>
        <List<PrepullImageDocument>
          caption="Images of the lists"
          path="prepull"
          query={{ missing: isMissing ? 'true' : undefined }}
          updates={{ images: () => undefined }}
          keyOf={({ image }) => image}
          columns={COLUMNS}
          empty={
            isMissing && shown.document?.total !== 0 ? (
              <Empty title="Nothing is missing" />
            ) : (
              <Empty title="No list is configured">
                <p>Name lists of images under prepull in the configuration; the server pulls them ahead.</p>
              </Empty>
            )
          }
        />
      </section>
      <section class="card">
        <h2>Bundles</h2>
        <List<BundleDocument>
          name="bundles"
          caption="Bundles"
          path="bundles"
          updates={{ images: () => undefined }}
          keyOf={({ id }) => id}
          columns={BUNDLE_COLUMNS}
          empty={
            <Empty title="No bundle was exported or imported">
              <p>Use the commands above; bundles are then listed here.</p>
            </Empty>
          }
        />
      </section>
    </>
  );
}

const COLUMNS: readonly Column<PrepullImageDocument>[] = [
  { key: 'image', label: 'Image', isLong: true, cell: ({ image }) => <Name of={image} /> },
  {
    key: 'state',
    label: 'State',
    cell: ({ complete }) => (
      <Badge tone={complete ? 'good' : 'warn'}>{complete ? 'stored' : 'missing'}</Badge>
    ),
  },
  {
    key: 'missing',
    label: 'Missing',
    isLong: true,
    cell: ({ missing, reason }) => reason ?? (missing.join(', ') || '–'),
  },
  {
    key: 'last',
    label: 'Last attempt',
    isLong: true,
    cell: ({ last }) =>
      last === null ? (
        <span class="faint">none</span>
      ) : (
        <div>
          <Ago at={last.at} /> {last.outcome}
          {last.reason !== null && <div class="small bad reason">{last.reason}</div>}
        </div>
      ),
  },
  {
    key: 'pull',
    label: 'Pull',
    cell: ({ image, complete }) =>
      complete ? null : (
        <ActionButton label="Pull" about={image} kind="quiet" act={() => begin('pull', { image })} />
      ),
  },
];

const BUNDLE_COLUMNS: readonly Column<BundleDocument>[] = [
  { key: 'at', label: 'When', cell: ({ at }) => <Ago at={at} /> },
  { key: 'kind', label: 'What', cell: ({ kind }) => (kind === 'export' ? 'made' : 'taken in') },
  { key: 'file', label: 'File', isLong: true, cell: ({ file }) => file ?? 'a pipe' },
  {
    key: 'images',
    label: 'Images',
    isLong: true,
    cell: ({ images, names }) => (
      <div>
        {numberText(images)}
        <div class="small faint">{names.join(', ') + (images > names.length ? ' …' : '')}</div>
      </div>
    ),
  },
  { key: 'bytes', label: 'Blobs', isNumber: true, cell: ({ bytes }) => bytesText(bytes) },
];
