/**
 * Reads the few answers of S3 and STS that are XML: small documents of known elements, without attributes that matter,
 * comments or CDATA. What cannot be found in them is absent.
 */

/** The texts of all elements `name`, whatever they are in, in order. */
export function xmlTexts(xml: string, name: string): readonly string[] {
  return xmlElements(xml, name).map(unescape);
}

/** The text of the first element `name`. */
export function xmlText(xml: string, name: string): string | undefined {
  return xmlTexts(xml, name)[0];
}

/** The contents of all elements `name`, as XML. Takes time in proportion to the document, whatever is in it. */
export function xmlElements(xml: string, name: string): readonly string[] {
  const contents: string[] = [];
  const begin = new RegExp(`<${name}(?:\\s[^<>]*?)?(/?)>`, 'g');
  for (let found = begin.exec(xml); found !== null; found = begin.exec(xml)) {
    const isEmpty = found[1] === '/';
    const end = isEmpty ? begin.lastIndex : xml.indexOf(`</${name}>`, begin.lastIndex);
    if (end < 0) break;
    contents.push(xml.slice(begin.lastIndex, end));
    begin.lastIndex = end;
  }
  return contents;
}

/** `text` for use in an element. */
export function xmlEscape(text: string): string {
  return text.replace(/[&<>]/g, char => `&#${char.charCodeAt(0)};`);
}

const NAMED: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function unescape(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#x([\da-fA-F]{1,6})|(\w+));/g, (whole, decimal, hex, name) => {
    if (name !== undefined) return NAMED[name] ?? whole;
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
