// What is stored: found by name, platform or state; pulled ahead, pinned, refreshed, removed.
import { useState } from 'preact/hooks';
import type { ImageDocument, InspectDocument } from '../../admin/documents/images.ts';
import type { OverviewDocument } from '../../admin/documents/overview.ts';
import { addressOf, param, setParams } from '../address.ts';
import { send } from '../admin.ts';
import { useDocument } from '../use-document.ts';
import { bytesText, exampleImage, hostOf } from '../format.ts';
import { shellWord } from '../shell.ts';
import { ActionButton, begin, Dialog, mayChange, Tasks } from '../parts/action.tsx';
import { List, Loaded } from '../parts/loaded.tsx';
import { type Column, TableRows } from '../parts/table.tsx';
import { Ago, Badge, CommandLine, Empty, Name, ShortDigest } from '../parts/text.tsx';

const FILTERS = [
  {
    name: 'source',
    label: 'From',
    choices: [
      ['', 'anywhere'],
      ['mirror', 'upstreams'],
      ['hosted', 'pushes'],
      ['imported', 'imports'],
    ],
  },
  {
    name: 'state',
    label: 'State',
    choices: [
      ['', 'any'],
      ['pinned', 'pinned'],
      ['incomplete', 'incomplete'],
      ['damaged', 'damaged'],
    ],
  },
  {
    name: 'sort',
    label: 'Order',
    choices: [
      ['', 'name'],
      ['used', 'last used'],
      ['own', 'own size'],
      ['shared', 'shared size'],
    ],
  },
] as const;

export function ImagesScreen() {
  const [isPulling, setPulling] = useState(false);
  const state = param('state');
  const shown = param('image');
  return (
    <>
      <Tasks actions={['pull', 'rm']} />
      <section class="card">
        <div class="fields">
          {FILTERS.map(({ name, label, choices }) => (
            <label key={name}>
              {label}
              <select
                value={param(name)}
                onChange={event => setParams({ [name]: event.currentTarget.value, after: undefined })}
              >
                {choices.map(([value, text]) => (
                  <option key={value} value={value}>
                    {text}
                  </option>
                ))}
              </select>
            </label>
          ))}
          <label>
            Platform
            <input
              value={param('platform')}
              placeholder="linux/arm64"
              onChange={event => setParams({ platform: event.currentTarget.value.trim(), after: undefined })}
            />
          </label>
        </div>
        <List<ImageDocument>
          caption="Images"
          path="images"
          query={{
            source: param('source'),
            sort: param('sort'),
            platform: param('platform'),
            ...(state !== '' && { [state]: 'true' }),
          }}
          isSearched
          tools={
            mayChange() && (
              <button type="button" class="main" onClick={() => setPulling(true)}>
                Pull an image…
              </button>
            )
          }
          updates={{ images: () => undefined }}
          keyOf={({ image, digest }) => `${image} ${digest}`}
          columns={COLUMNS}
          empty={
            ['source', 'state', 'platform'].some(name => param(name) !== '') ? (
              <Empty title="No image matches" />
            ) : (
              <Empty title="Nothing is stored yet">
                <p>
                  An image is stored when a client pulls it, when it is pushed or imported, or when it is
                  pulled ahead.
                </p>
              </Empty>
            )
          }
        />
      </section>
      {isPulling && <PullDialog close={() => setPulling(false)} />}
      {shown !== '' && <ImageDialog key={shown} image={shown} />}
    </>
  );
}

const COLUMNS: readonly Column<ImageDocument>[] = [
  {
    key: 'image',
    label: 'Image',
    isLong: true,
    cell: ({ image, digest, pinned, damaged, missingBytes, source }) => (
      <div>
        <a
          href={addressOf('images', {
            ...Object.fromEntries(new URLSearchParams(location.hash.split('?')[1])),
            image,
          })}
        >
          <Name of={image} />
        </a>{' '}
        {pinned && <Badge tone="good">pinned</Badge>} {damaged && <Badge tone="bad">damaged</Badge>}{' '}
        {missingBytes > 0 && <Badge tone="warn">{bytesText(missingBytes)} missing</Badge>}
        <div class="small faint">
          <ShortDigest of={digest} /> {SOURCES[source]}
        </div>
      </div>
    ),
  },
  {
    key: 'platforms',
    label: 'Platforms',
    cell: ({ platforms }) => (
      <div class="small">
        {platforms.length === 0 && <span class="faint">–</span>}
        {platforms.map(({ platform, complete }) => (
          <div key={platform} class={complete ? '' : 'faint'}>
            {platform ?? 'any'}
            {!complete && ' (not stored)'}
          </div>
        ))}
      </div>
    ),
  },
  { key: 'own', label: 'Own', isNumber: true, cell: ({ ownBytes }) => bytesText(ownBytes) },
  { key: 'shared', label: 'Shared', isNumber: true, cell: ({ sharedBytes }) => bytesText(sharedBytes) },
  { key: 'used', label: 'Last used', cell: ({ lastUsed }) => <Ago at={lastUsed} /> },
];

const SOURCES: Readonly<Record<ImageDocument['source'], string>> = {
  mirror: 'from upstream',
  hosted: 'pushed',
  imported: 'imported',
};

function closeImage(): void {
  setParams({ image: undefined });
}

function ImageDialog({ image }: { readonly image: string }) {
  const [isRemoving, setRemoving] = useState(false);
  const query = new URLSearchParams({ reference: image });
  const shown = useDocument<InspectDocument>(`inspect?${query}`, { images: () => undefined });
  const { document: overview } = useDocument<OverviewDocument>('overview');
  const host = overview === undefined ? 'registry.example' : hostOf(overview.clientUrl);
  const pin = async (action: 'pin' | 'unpin') => {
    await send(`actions/${action}`, { reference: image });
    shown.again();
    return action === 'pin' ? `Pinned: ${image}` : `Unpinned: ${image}`;
  };
  const refresh = async () => {
    await send('actions/refresh', { reference: image });
    shown.again();
    return `Up to date: ${image}`;
  };
  if (isRemoving) return <RemoveDialog image={image} close={() => setRemoving(false)} done={closeImage} />;
  return (
    <Dialog title={image} close={closeImage}>
      <Loaded shown={shown}>
        {({ digest, pinned, ownBytes, sharedBytes, missingBytes, lastUsed, manifests }) => (
          <>
            <dl class="facts">
              <dt>Digest</dt>
              <dd>
                <code>{digest}</code>
              </dd>
              <dt>Size</dt>
              <dd>
                {bytesText(ownBytes)} own, {bytesText(sharedBytes)} shared
                {missingBytes > 0 && `, ${bytesText(missingBytes)} not stored`}
              </dd>
              <dt>Last used</dt>
              <dd>
                <Ago at={lastUsed} />
              </dd>
              <dt>Pinned</dt>
              <dd>{pinned ? 'yes: it is never evicted' : 'no'}</dd>
            </dl>
            <div class="actions">
              <ActionButton
                label={pinned ? 'Unpin' : 'Pin'}
                about={image}
                act={() => pin(pinned ? 'unpin' : 'pin')}
              />
              <ActionButton label="Refresh" about={image} act={refresh} />
              <ActionButton label="Pull" about={image} act={() => begin('pull', { image })} />
              {mayChange() && (
                <button type="button" class="danger" onClick={() => setRemoving(true)}>
                  Remove…
                </button>
              )}
              <a href={addressOf('why', { image })}>Explain</a>
            </div>
            <CommandLine
              label="Pull by digest"
              text={`docker pull ${shellWord(`${host}/${image.replace(/@.*$|:[^:/]*$/, '')}@${digest}`)}`}
            />
            <details>
              <summary>Manifests and layers</summary>
              <TableRows
                caption="Manifests and layers"
                rows={manifests.flatMap(manifest => [
                  { ...manifest, what: manifest.platform ?? (manifest.index ? 'index' : 'manifest') },
                  ...manifest.blobs.map(blob => ({ ...blob, what: blob.config ? 'config' : 'layer' })),
                ])}
                keyOf={({ digest: each, what }) => `${what} ${each}`}
                columns={PARTS}
              />
            </details>
          </>
        )}
      </Loaded>
    </Dialog>
  );
}

type Part = Pick<InspectDocument['manifests'][number], 'digest' | 'size' | 'state'> & {
  readonly what: string;
  /** Of a blob that is not held. */
  readonly bytesThere?: number;
};

const PARTS: readonly Column<Part>[] = [
  { key: 'what', label: 'Part', cell: ({ what }) => what },
  { key: 'digest', label: 'Digest', cell: ({ digest }) => <ShortDigest of={digest} /> },
  { key: 'size', label: 'Size', isNumber: true, cell: ({ size }) => bytesText(size) },
  {
    key: 'state',
    label: 'State',
    cell: ({ state, bytesThere = 0 }) => (
      <>
        <Badge tone={state === 'damaged' ? 'bad' : state === 'missing' ? 'warn' : 'good'}>{state}</Badge>
        {bytesThere > 0 && ` ${bytesText(bytesThere)} of it stored`}
      </>
    ),
  },
];

function PullDialog({ close }: { readonly close: () => void }) {
  const [image, setImage] = useState('');
  const [isAll, setAll] = useState(false);
  const { document: overview } = useDocument<OverviewDocument>('overview');
  const act = () => begin('pull', { image: image.trim(), ...(isAll && { platforms: 'all' }) });
  return (
    <Dialog title="Pull an image ahead" close={close} confirm={{ label: 'Pull', act }}>
      <div class="fields">
        <label>
          Image
          <input
            required
            value={image}
            placeholder={overview && exampleImage(overview.upstreams)}
            spellcheck={false}
            onInput={event => setImage(event.currentTarget.value)}
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={isAll} onChange={event => setAll(event.currentTarget.checked)} />
          All platforms
        </label>
      </div>
    </Dialog>
  );
}

function RemoveDialog({
  image,
  close,
  done,
}: {
  readonly image: string;
  readonly close: () => void;
  readonly done: () => void;
}) {
  const [isForced, setForced] = useState(false);
  const act = async () => {
    const text = await begin('rm', { reference: image, force: isForced });
    done();
    return text;
  };
  return (
    <Dialog title={`Remove ${image}?`} close={close} confirm={{ label: 'Remove', act, isDanger: true }}>
      <p>What comes from an upstream is fetched again when it is pulled. What was pushed here is lost.</p>
      <div class="fields">
        <label class="check">
          <input
            type="checkbox"
            checked={isForced}
            onChange={event => setForced(event.currentTarget.checked)}
          />
          Also if it is pinned, or is a digest that has tags
        </label>
      </div>
    </Dialog>
  );
}
