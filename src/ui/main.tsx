// The page of the operator: what the server does, what it saved, why it refused, what will go wrong next. It reads the
// JSON that the command line reads, and is a leaf: nothing imports it, and it imports only types.
import { render } from 'preact';
import { followServer } from './events.ts';
import { keepFocus } from './focus.ts';
import { Frame } from './frame.tsx';
// oxlint-disable-next-line import/no-unassigned-import -- the build makes a file of it that the document names
import './style.css';

const page = document.getElementById('page');
if (page === null) throw new Error('there is no place for the page');
page.replaceChildren();
render(<Frame />, page);
keepFocus();
followServer();
