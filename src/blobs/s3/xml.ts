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

/** The contents of all elements `name`, as XML. */
export function xmlElements(xml: string, name: string): readonly string[] {
  const found = xml.matchAll(new RegExp(`<${name}(?:\\s[^>]*)?(?:/>|>([\\s\\S]*?)</${name}>)`, 'g'));
  return [...found].map(([, content = '']) => content);
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
