// When the focused element is removed, as a button with its row, the focus moves to a heading nearby. Browsers would begin
// again at the top of the page, and screen readers would say nothing.

const HEADING = 'h1, h2, h3';

/** The focused element and what it is in, from the inside. */
let around: readonly Element[] = [];

/** From now on, the heading of what is left around a focused element gets the focus when the element is removed. */
export function keepFocus(): void {
  addEventListener('focusin', ({ target }) => {
    around = target instanceof Element ? [...withAncestors(target)] : [];
  });
  addEventListener('focusout', ({ target }) => {
    // Whoever clicks beside an element has left it. One that is removed is handled before this.
    setTimeout(() => {
      if (around[0] === target && around[0]?.isConnected && isNothingFocused()) around = [];
    });
  });
  new MutationObserver(() => {
    const [focused, ...outside] = around;
    if (focused === undefined || focused.isConnected || !isNothingFocused()) return;
    around = [];
    const heading = outside
      .filter(each => each.isConnected)
      .map(each => each.querySelector<HTMLElement>(HEADING))
      .find(each => each !== null);
    if (heading === undefined || heading === null) return;
    heading.tabIndex = -1;
    heading.focus();
  }).observe(document.body, { childList: true, subtree: true });
}

function* withAncestors(element: Element): Generator<Element, void> {
  for (let each: Element | null = element; each !== null; each = each.parentElement) yield each;
}

function isNothingFocused(): boolean {
  return document.activeElement === null || document.activeElement === document.body;
}
