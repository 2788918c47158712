import type { Io } from '../io.ts'
import type { Output } from '../output.ts'

const codes = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const

/**
 * Styles text on a terminal. Returns the text unchanged elsewhere, if `NO_COLOR` is set, or if
 * `TERM` is `dumb`.
 */
export type Style = (name: keyof typeof codes, text: string) => string

export function styleFor(output: Output, { env }: Pick<Io, 'env'>): Style {
  // https://no-color.org: any value except the empty string counts as set.
  const isStyled = output.isTerminal && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
  return (name, text) => {
    const [begin, end] = codes[name]
    return isStyled ? `\u001B[${begin}m${text}\u001B[${end}m` : text
  }
}

/**
 * Characters that are invisible but affect the terminal or the text around them: control
 * characters, line and paragraph separators, and Unicode's format and default-ignorable characters
 * (directions, joiners, tags, fillers). The variation selectors of emoji are excepted, because they
 * only choose between two pictures.
 */
export const unseen: RegExp = /(?![\uFE00-\uFE0F])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}]/gu

/** Makes text from a file safe for a terminal: invisible characters become escapes. */
export function visible(text: string): string {
  return text.replaceAll(unseen, (character) => {
    const code = (character.codePointAt(0) as number).toString(16)
    if (code.length <= 2) return `\\x${code.padStart(2, '0')}`
    return code.length <= 4 ? `\\u${code.padStart(4, '0')}` : `\\u{${code}}`
  })
}

/**
 * Does the same for a line of JSON and keeps its value: in JSON such characters appear only in
 * strings or as white space. A tab is harmless and stays. A `\r` outside a string is escaped too,
 * because it would let later text hide the text before it.
 */
export function visibleJson(line: string): string {
  return line.replaceAll(unseen, (character) => {
    if (character === '\t') return character
    // JSON escapes are UTF-16 code units, so a character beyond U+FFFF takes two.
    return Array.from({ length: character.length }, (_, at) => {
      return `\\u${character.charCodeAt(at).toString(16).padStart(4, '0')}`
    }).join('')
  })
}

/** Formats a value as a line of JSON for programs. The line is safe to print on a terminal too. */
export function jsonLine(value: object): string {
  return `${visibleJson(JSON.stringify(value))}\n`
}

/**
 * Applies `visible` to each line of a text and keeps the line breaks. For texts of this program,
 * which may quote file contents.
 */
export function visibleLines(text: string): string {
  return text.split('\n').map(visible).join('\n')
}
