import { htmlUnescape, windows1252 } from './html-unescape.ts'
import { namedReferences } from './html-references.ts'

/**
 * A prompt as the reference pipeline cleans it before tokenising: ftfy's `fix_text` (all but its repair of mojibake, text that
 * was decoded in the wrong encoding), HTML references replaced twice, runs of white space as one space, none at the ends.
 */
export function cleanPrompt(text: string): string {
  return htmlUnescape(htmlUnescape(fixText(text)))
    .replace(whiteSpaceRun, ' ')
    .replace(/^ | $/g, '')
}

/** What Python's `\s` is, which differs from JavaScript's. */
const whiteSpaceRun =
  // oxlint-disable-next-line no-control-regex -- some of them are white space to Python
  /[\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g

/**
 * ftfy.fix_text, version 6, without the repair of mojibake: line by line, each until nothing changes. HTML references are
 * replaced only where they end in a semicolon, and no longer from the first line on that has a "<".
 */
function fixText(text: string): string {
  let unescape = true
  const lines = text.match(/[^\n]*\n|[^\n]+$/g) ?? []
  return lines
    .map((line) => {
      if (line.includes('<')) unescape = false
      for (;;) {
        const before = line
        line = fixLine(line, unescape)
        if (line === before) return line
      }
    })
    .join('')
}

function fixLine(line: string, unescape: boolean): string {
  return (unescape ? unescapeReferences(line) : line)
    .replace(/[\u0080-\u009f]/g, (c) => windows1252[c.charCodeAt(0) - 0x80]!)
    .replace(ligature, (c) => ligatures[c]!)
    .replace(/[\u3000\uff01-\uffef]/g, (c) => c.normalize('NFKC'))
    .replace(/[\u02bc\u2018-\u201b]/g, "'")
    .replace(/[\u201c-\u201f]/g, '"')
    .replace(/\r\n|[\r\u2028\u2029\u0085]/g, '\n')
    .replace(/\p{Surrogate}/gu, '\ufffd')
    .replace(terminalEscape, '')
    .replace(controlCharacter, '')
    .normalize('NFC')
}

// oxlint-disable-next-line no-control-regex -- the escapes of terminals start with one
const terminalEscape = /\u001b\[[\d;]*[a-zA-Z]/g
const controlCharacter =
  // oxlint-disable-next-line no-control-regex -- they are what is removed
  /[\u0000-\u0008\u000b\u000e-\u001f\u007f\u206a-\u206f\ufeff\ufff9-\ufffc]/g

/** Letter pairs that Unicode has as one character for the sake of old encodings and printing. */
const ligatures: Readonly<Record<string, string>> = {
  Ĳ: 'IJ',
  ĳ: 'ij',
  ŉ: 'ʼn',
  Ǳ: 'DZ',
  ǲ: 'Dz',
  ǳ: 'dz',
  Ǆ: 'DŽ',
  ǅ: 'Dž',
  ǆ: 'dž',
  Ǉ: 'LJ',
  ǈ: 'Lj',
  ǉ: 'lj',
  Ǌ: 'NJ',
  ǋ: 'Nj',
  ǌ: 'nj',
  ﬀ: 'ff',
  ﬁ: 'fi',
  ﬂ: 'fl',
  ﬃ: 'ffi',
  ﬄ: 'ffl',
  ﬅ: 'ſt',
  ﬆ: 'st',
}
const ligature = new RegExp(`[${Object.keys(ligatures).join('')}]`, 'g')

/** References with a semicolon: of HTML, and those in capitals of a name in small letters that HTML does not know. */
function unescapeReferences(line: string): string {
  return line.replace(/&#?[0-9A-Za-z]{1,24};/g, (whole) => {
    const name = whole.slice(1, -1)
    const characters = namedReferences.get(name)
    if (characters !== undefined) return characters
    if (name.startsWith('#')) {
      const unescaped = htmlUnescape(whole)
      return unescaped.includes(';') ? whole : unescaped
    }
    const small = namedReferences.get(name.toLowerCase())
    const isShouted = small !== undefined && name === name.toUpperCase()
    return isShouted && htmlUnescape(whole) === whole ? small.toUpperCase() : whole
  })
}
