import type { Io } from '../io.ts'
import type { Output } from '../output.ts'

const codes = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const

/** Dresses text for a terminal; leaves it as it is elsewhere and where `NO_COLOR` is set. */
export type Style = (name: keyof typeof codes, text: string) => string

export function styleFor(output: Output, { env }: Pick<Io, 'env'>): Style {
  // https://no-color.org: set to anything but nothing.
  const isStyled = output.isTerminal && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
  return (name, text) => {
    const [begin, end] = codes[name]
    return isStyled ? `\u001B[${begin}m${text}\u001B[${end}m` : text
  }
}

/**
 * Characters that do something to a terminal, or to the text around them, and are not seen themselves: controls,
 * separators of lines and paragraphs, and what Unicode calls format characters and default-ignorable (directions,
 * joiners, tags, fillers). The variation selectors of emoji only choose between two pictures.
 */
export const unseen: RegExp = /(?![\uFE00-\uFE0F])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}]/gu

/** A text that comes from a file, fit for a terminal: characters that are not seen are shown as escapes. */
export function visible(text: string): string {
  return text.replaceAll(unseen, (character) => {
    const code = (character.codePointAt(0) as number).toString(16)
    if (code.length <= 2) return `\\x${code.padStart(2, '0')}`
    return code.length <= 4 ? `\\u${code.padStart(4, '0')}` : `\\u{${code}}`
  })
}

/**
 * The same for a line of JSON, which keeps its value: in JSON these characters stand in strings only, but for white
 * space. A tab does no harm; a `\r` outside of a string is shown too, or it would hide what stands before it.
 */
export function visibleJson(line: string): string {
  return line.replaceAll(unseen, (character) => {
    if (character === '\t') return character
    // An escape of JSON is one of UTF-16: a character beyond U+FFFF takes two.
    return Array.from({ length: character.length }, (_, at) => {
      return `\\u${character.charCodeAt(at).toString(16).padStart(4, '0')}`
    }).join('')
  })
}

/** A value as a line of JSON, for programs whose output may be seen on a terminal all the same. */
export function jsonLine(value: object): string {
  return `${visibleJson(JSON.stringify(value))}\n`
}

/** What `visible` makes of a text that is ours and may quote one: its lines stay lines. */
export function visibleLines(text: string): string {
  return text.split('\n').map(visible).join('\n')
}
