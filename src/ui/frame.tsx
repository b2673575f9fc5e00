// What is around every screen: navigation, theme, keys, and what is said.
import { Fragment } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { addressOf, goTo, place } from './address.ts';
import { session } from './admin.ts';
import { connection, logIn } from './events.ts';
import icon from './icon.svg';
import { Announced } from './parts/text.tsx';
import { SCREENS } from './screens.ts';
import { hasShortcuts, nextTheme, theme } from './theme.ts';

export function Frame() {
  const { screen: name } = place.value;
  const screen = SCREENS.find(each => each.name === name);
  const heading = useRef<HTMLHeadingElement>(null);
  const help = useRef<HTMLDialogElement>(null);
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${screen?.label ?? 'Not found'} – Entrepot`;
    // As after loading a page: readers begin with the heading.
    if (!isFirst.current) heading.current?.focus();
    isFirst.current = false;
    // Where the navigation is a strip, the screen's name may be out of it.
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    scrollTo(0, 0);
  }, [name]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => act(event, () => help.current?.showModal());
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  const Content = screen?.content;
  return (
    <div class="frame">
      <a
        class="skip"
        href="#main"
        onClick={event => {
          event.preventDefault();
          heading.current?.focus();
        }}
      >
        Skip to the content
      </a>
      <header class="side">
        <div class="brand">
          <img src={icon} alt="" />
          Entrepot
        </div>
        <nav aria-label="Screens">
          <ul>
            {SCREENS.map(each => (
              <li key={each.name}>
                <a href={addressOf(each.name)} aria-current={each.name === name ? 'page' : undefined}>
                  {each.label}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div class="tools">
          <button
            type="button"
            class="quiet"
            onClick={() => {
              theme.value = nextTheme(theme.value);
            }}
          >
            Theme: {theme.value}
          </button>
          <button type="button" class="quiet" onClick={() => help.current?.showModal()}>
            Keys
          </button>
        </div>
      </header>
      <main id="main">
        <div class="head">
          <h1 tabIndex={-1} ref={heading}>
            {screen?.label ?? 'There is no such screen'}
          </h1>
          <Connection />
        </div>
        {Content === undefined ? (
          <a href={addressOf('overview')}>Go to the overview</a>
        ) : (
          <Content key={name} />
        )}
      </main>
      <Announced />
      <dialog ref={help} aria-labelledby="keys">
        <form method="dialog">
          <h2 id="keys">Keys</h2>
          <dl class="facts">
            {SCREENS.map(({ label }, at) => (
              <Fragment key={label}>
                <dt>
                  <kbd>{at + 1}</kbd>
                </dt>
                <dd>{label}</dd>
              </Fragment>
            ))}
            <dt>
              <kbd>/</kbd>
            </dt>
            <dd>Go to the filter</dd>
            <dt>
              <kbd>?</kbd>
            </dt>
            <dd>Show this list</dd>
          </dl>
          <label class="check">
            <input
              type="checkbox"
              checked={hasShortcuts.value}
              onChange={event => {
                hasShortcuts.value = event.currentTarget.checked;
              }}
            />
            Use these keys
          </label>
          <button type="submit" class="main">
            Close
          </button>
        </form>
      </dialog>
    </div>
  );
}

const CONNECTIONS: Readonly<Record<typeof connection.value, string>> = {
  connecting: 'Connecting…',
  live: 'Live',
  lost: 'No connection: trying again',
  refused: 'You are no longer logged in',
};

function Connection() {
  const state = connection.value;
  const who = session.value;
  const text = CONNECTIONS[state];
  return (
    <p class="faint">
      <span role="status" class={`live ${state === 'live' ? 'on' : state === 'connecting' ? '' : 'off'}`}>
        {text}
      </span>
      {state === 'refused' && (
        <button type="button" class="quiet" onClick={() => void logIn()}>
          Log in again
        </button>
      )}
      {who !== undefined && ` · ${who.name}${who.rights === 'read' ? ', read-only' : ''}`}
    </p>
  );
}

/** Single keys, unless somebody is typing or has switched them off. */
function act(event: KeyboardEvent, showHelp: () => void): void {
  const { key, target } = event;
  const isTyping =
    target instanceof HTMLElement && target.closest('input, select, textarea, dialog') !== null;
  if (!hasShortcuts.value || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const screen = SCREENS[Number(key) - 1];
  const filter = document.querySelector<HTMLInputElement>('main input[type=search]');
  if (screen !== undefined) goTo(addressOf(screen.name));
  else if (key === '/' && filter !== null) {
    event.preventDefault();
    filter.focus();
  } else if (key === '?') showHelp();
}
