import { legacyReferences, namedReferences } from './html-references.ts'

// Character references as HTML and Python's `html.unescape` read them.

const reference = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu

/** The characters that bytes 0x80 to 0x9F have in Windows-1252; those it leaves open stay control characters. */
export const windows1252 = '€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ'

/** Replaces all named and numeric character references, those without a semicolon where HTML allows it. */
export function htmlUnescape(text: string): string {
  return text.replace(reference, (whole, body: string) =>
    body.startsWith('#') ? numeric(body) : (named(body) ?? whole),
  )
}

function numeric(body: string): string {
  const digits = body.replace(';', '')
  const code = /^#x/i.test(digits)
    ? Number.parseInt(digits.slice(2), 16)
    : Number.parseInt(digits.slice(1), 10)
  if (code === 0) return '\ufffd'
  if (code === 0x0d) return '\r'
  if (code >= 0x80 && code <= 0x9f) return windows1252[code - 0x80]!
  if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return '\ufffd'
  return isNonCharacter(code) ? '' : String.fromCodePoint(code)
}

function isNonCharacter(code: number): boolean {
  return (
    (code >= 0x01 && code <= 0x08) ||
    code === 0x0b ||
    (code >= 0x0e && code <= 0x1f) ||
    code === 0x7f ||
    (code >= 0xfdd0 && code <= 0xfdef) ||
    (code & 0xfffe) === 0xfffe
  )
}

function named(body: string): string | undefined {
  if (body.endsWith(';')) {
    const characters = namedReferences.get(body.slice(0, -1))
    if (characters !== undefined) return characters
  }
  // The longest name at the front that needs no semicolon.
  const points = Array.from(body)
  for (let length = points.length; length > 1; length--) {
    const name = points.slice(0, length).join('')
    if (legacyReferences.has(name)) {
      return namedReferences.get(name)! + points.slice(length).join('')
    }
  }
  return undefined
}
