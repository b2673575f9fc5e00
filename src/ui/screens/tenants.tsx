// Who may pull: their Secrets' state, their logins here, their use. No secret is ever shown, but the one just issued.
import { useState } from 'preact/hooks';
import type { RotatedDocument } from '../../admin/documents/actions.ts';
import type { OverviewDocument } from '../../admin/documents/overview.ts';
import type { TenantOfPage, TenantsPage } from '../../admin/documents/tenants.ts';
import { param, setParams } from '../address.ts';
import { send } from '../admin.ts';
import { nowMs } from '../clock.ts';
import { useDocument } from '../use-document.ts';
import { bytesText, hostOf, numberText } from '../format.ts';
import { shellWord } from '../shell.ts';
import { ActionButton, Dialog, mayChange } from '../parts/action.tsx';
import { List, Loaded } from '../parts/loaded.tsx';
import { type Column, TableRows } from '../parts/table.tsx';
import { Ago, Badge, CommandLine, Empty, ShareBar, type Tone } from '../parts/text.tsx';

type Secret = TenantOfPage['secrets'][number];
type Login = TenantOfPage['issued'][number];

export function TenantsScreen() {
  const [isAdding, setAdding] = useState(false);
  const chosen = param('tenant');
  return (
    <>
      <Notes />
      <section class="card">
        <List<TenantOfPage>
          caption="Tenants"
          path="tenants"
          isSearched
          tools={
            mayChange() && (
              <button type="button" class="main" onClick={() => setAdding(true)}>
                Add a tenant…
              </button>
            )
          }
          updates={{ tenants: () => undefined }}
          keyOf={({ name }) => name}
          columns={COLUMNS}
          empty={
            <Empty title="There are no tenants">
              <p>
                Without tenants, everybody pulls anonymously. Add one here, name folders with pull secrets
                under tenants in the configuration, or follow a cluster's namespaces.
              </p>
              <CommandLine label="In a terminal" text="entrepot tenant add team-a" />
            </Empty>
          }
        />
      </section>
      {isAdding && <AddDialog close={() => setAdding(false)} />}
      {chosen !== '' && <TenantDialog key={chosen} name={chosen} />}
    </>
  );
}

/** What is not about one tenant. */
function Notes() {
  const { document } = useDocument<TenantsPage>('tenants?limit=1', { tenants: () => undefined });
  if (document === undefined) return null;
  const { problems, refused, passedOver } = document;
  if (problems.length + refused.length + passedOver.length === 0) return null;
  return (
    <ul class="notes" aria-label="What is wrong">
      {problems.map(text => (
        <li class="note warn" key={text}>
          {text}
        </li>
      ))}
      {refused.map(({ name, reason }) => (
        <li class="note warn" key={name}>
          {name}: {reason}
        </li>
      ))}
      {passedOver.map(({ resource, namespace, name, reason }) => (
        <li class="note" key={`${resource} ${namespace} ${name}`}>
          {resource} {namespace}/{name}: {reason}
        </li>
      ))}
    </ul>
  );
}

function toneOf({ state, lastRefusedAtMs = 0, lastUsedAtMs = 0 }: Secret): Tone {
  if (state !== 'loaded') return 'bad';
  return lastRefusedAtMs > lastUsedAtMs ? 'warn' : 'good';
}

const COLUMNS: readonly Column<TenantOfPage>[] = [
  {
    key: 'name',
    label: 'Tenant',
    isLong: true,
    cell: ({ name, suspended }) => (
      <div>
        <button type="button" class="link" onClick={() => setParams({ tenant: name })}>
          {name}
        </button>
        {suspended !== undefined && <div class="small bad">suspended: {suspended}</div>}
      </div>
    ),
  },
  {
    key: 'use',
    label: 'Stored',
    cell: ({ usedBytes, quotaBytes, name }) => (
      <div>
        {quotaBytes !== null && (
          <ShareBar value={quotaBytes === 0 ? 1 : usedBytes / quotaBytes} label={`Quota of ${name}`} />
        )}
        <span class="small">
          {bytesText(usedBytes)}
          {quotaBytes === null ? ', no quota' : ` of ${bytesText(quotaBytes)}`}
        </span>
      </div>
    ),
  },
  {
    key: 'secrets',
    label: 'Pull secrets',
    cell: ({ secrets }) => {
      const troubled = secrets.filter(secret => toneOf(secret) !== 'good');
      return (
        <div>
          {numberText(secrets.length)}
          {troubled.length > 0 && (
            <>
              {' '}
              <Badge tone="bad">{numberText(troubled.length)} in trouble</Badge>
            </>
          )}
        </div>
      );
    },
  },
  {
    key: 'issued',
    label: 'Logins here',
    cell: ({ issued }) => numberText(issued.filter(login => !isOver(login)).length),
  },
];

/** Logins that have ended are listed for a while. */
function isOver({ endsAtMs = Number.POSITIVE_INFINITY }: Login): boolean {
  return endsAtMs <= nowMs.value;
}

function closeTenant(): void {
  setParams({ tenant: undefined });
}

function TenantDialog({ name }: { readonly name: string }) {
  const [rotated, setRotated] = useState<RotatedDocument>();
  const shown = useDocument<TenantsPage>(`tenants?${new URLSearchParams({ name })}`, {
    tenants: () => undefined,
  });
  const tenant = shown.document?.entries.find(each => each.name === name);
  const { document: overview } = useDocument<OverviewDocument>('overview');
  const [typed, setTyped] = useState<string>();
  const server = typed ?? (overview && hostOf(overview.clientUrl));
  const rotate = async () => {
    const asked = { tenant: name, server: server?.trim() };
    setRotated(await send<RotatedDocument>('actions/tenant-rotate', asked));
    return `A new login was issued to ${name}`;
  };
  const [revoked, setRevoked] = useState<string>();
  if (revoked !== undefined) {
    return <RevokeDialog tenant={name} login={revoked} close={() => setRevoked(undefined)} />;
  }
  return (
    <Dialog title={`Tenant ${name}`} close={closeTenant}>
      {rotated !== undefined && <Issued {...rotated} />}
      {tenant?.suspended !== undefined && <Suspended name={name} reason={tenant.suspended} />}
      <Loaded shown={shown}>
        {() =>
          tenant === undefined ? (
            <p class="faint">There is no such tenant.</p>
          ) : (
            <>
              <h3>Pull secrets</h3>
              {tenant.secrets.length === 0 ? (
                <p class="faint">None: this tenant reads only what is public, or hosted here.</p>
              ) : (
                <TableRows
                  caption="Pull secrets"
                  rows={tenant.secrets}
                  keyOf={({ source, name: each }) => `${source} ${each}`}
                  columns={SECRETS}
                />
              )}
              <h3>Logins issued here</h3>
              {tenant.issued.length === 0 ? (
                <p class="faint">None.</p>
              ) : (
                <TableRows
                  caption="Logins issued here"
                  rows={tenant.issued}
                  keyOf={({ id }) => id}
                  columns={[
                    ...ISSUED,
                    {
                      key: 'revoke',
                      label: 'Revoke',
                      cell: login =>
                        mayChange() &&
                        !isOver(login) && (
                          <button
                            type="button"
                            class="quiet danger"
                            aria-label={`Revoke ${login.id}`}
                            onClick={() => setRevoked(login.id)}
                          >
                            Revoke…
                          </button>
                        ),
                    },
                  ]}
                />
              )}
              {mayChange() && server !== undefined && (
                <div class="fields">
                  <label>
                    This registry, as clients name it
                    <input
                      value={server}
                      spellcheck={false}
                      onInput={event => setTyped(event.currentTarget.value)}
                    />
                  </label>
                  <ActionButton label="Rotate the login" about={`of ${name}`} act={rotate} />
                </div>
              )}
              <p class="faint small">
                Rotating issues a new login; earlier ones for the same name end an hour later.
              </p>
            </>
          )
        }
      </Loaded>
    </Dialog>
  );
}

/** Why the tenant gets nothing, and the button that ends it. */
function Suspended({ name, reason }: { readonly name: string; readonly reason: string }) {
  const adopt = async () => {
    await send('actions/tenant-adopt', { tenant: name });
    return `Adopted: ${name}`;
  };
  return (
    <div class="note bad">
      <p>
        Suspended: {reason}. Adopt it only if the new namespace belongs to the same people: it gets all that
        the earlier one had.
      </p>
      <div class="actions">
        <ActionButton label="Adopt" about={name} act={adopt} />
      </div>
    </div>
  );
}

function Issued({ server, username, password, earlierEndAt, secret, warning }: RotatedDocument) {
  const [host = server] = server.split('/');
  return (
    <div class="note good">
      <p>
        The new login, shown once. Earlier ones end <Ago at={earlierEndAt} />.
      </p>
      {warning !== null && <p class="note warn">{warning}</p>}
      <CommandLine
        label="Log in"
        text={`docker login ${shellWord(host)} --username ${shellWord(username)} --password ${shellWord(password)}`}
      />
      <CommandLine label="As a Kubernetes Secret, for kubectl apply" text={JSON.stringify(secret)} />
    </div>
  );
}

const time = (atMs: number | undefined) => (atMs === undefined ? undefined : new Date(atMs).toISOString());

const SECRETS: readonly Column<Secret>[] = [
  { key: 'name', label: 'Secret', isLong: true, cell: ({ name, source }) => `${name} (${source})` },
  {
    key: 'state',
    label: 'State',
    cell: secret => (
      <div>
        <Badge tone={toneOf(secret)}>
          {secret.state === 'loaded' && toneOf(secret) === 'warn' ? 'refused' : secret.state}
        </Badge>
        {secret.reason !== undefined && <div class="small reason">{secret.reason}</div>}
      </div>
    ),
  },
  { key: 'used', label: 'Last used', cell: ({ lastUsedAtMs }) => <Ago at={time(lastUsedAtMs)} /> },
];

const ISSUED: readonly Column<Login>[] = [
  {
    key: 'id',
    label: 'Login',
    cell: ({ id, readOnly }) => (
      <div>
        <code>{id}</code>
        {readOnly && ' read-only'}
      </div>
    ),
  },
  { key: 'used', label: 'Last used', cell: ({ lastUsedAtMs }) => <Ago at={time(lastUsedAtMs)} /> },
  {
    key: 'ends',
    label: 'Ends',
    cell: login => (
      <>
        {isOver(login) && 'ended '}
        <Ago at={time(login.endsAtMs)} absent="never" />
      </>
    ),
  },
];

function RevokeDialog({
  tenant,
  login,
  close,
}: {
  readonly tenant: string;
  readonly login: string;
  readonly close: () => void;
}) {
  const act = async () => {
    await send('actions/tenant-revoke', { tenant, credential: login });
    return `Revoked: ${login}`;
  };
  return (
    <Dialog title="Revoke this login?" close={close} confirm={{ label: 'Revoke', act, isDanger: true }}>
      <p>
        Whoever uses <code>{login}</code> of {tenant} is refused from now on. To replace it without an
        interruption, rotate it instead.
      </p>
    </Dialog>
  );
}

function AddDialog({ close }: { readonly close: () => void }) {
  const [name, setName] = useState('');
  const act = async () => {
    const tenant = name.trim();
    const { added } = await send<{ readonly added: boolean }>('actions/tenant-add', { tenant });
    setParams({ tenant });
    return added ? `Added: ${tenant}` : `There is already a tenant ${tenant}`;
  };
  return (
    <Dialog title="Add a tenant" close={close} confirm={{ label: 'Add', act }}>
      <div class="fields">
        <label>
          Name, as in the paths of its repositories
          <input
            required
            value={name}
            placeholder="team-a"
            spellcheck={false}
            onInput={event => setName(event.currentTarget.value)}
          />
        </label>
      </div>
    </Dialog>
  );
}
