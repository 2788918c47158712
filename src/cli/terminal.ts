// How text is made for a terminal: colours, escapes for what is invisible, words for a shell, units.

import type { Io } from './io.ts'
import type { Output } from './output.ts'

const codes = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39], cyan: [36, 39] } as const

/**
 * Styles text on a terminal. Returns the text unchanged elsewhere, if `NO_COLOR` is set, or if
 * `TERM` is `dumb`. `FORCE_COLOR` decides where it is set, as in Node.js: `0` and `false` say no.
 */
export type Style = (name: keyof typeof codes, text: string) => string

export function styleFor(output: Output, { env }: Pick<Io, 'env'>): Style {
  // https://no-color.org: any value except the empty string counts as set.
  const isUsual = output.isTerminal && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
  const forced = env['FORCE_COLOR']
  const isStyled = forced === undefined ? isUsual : forced !== '0' && forced !== 'false'
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
const unseen = /(?![\uFE00-\uFE0F])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}]/gu

/** Makes text from a file safe for a terminal: invisible characters become escapes. */
export function visible(text: string): string {
  return text.replaceAll(unseen, (character) => {
    const code = (character.codePointAt(0) as number).toString(16)
    if (code.length <= 2) return `\\x${code.padStart(2, '0')}`
    return code.length <= 4 ? `\\u${code.padStart(4, '0')}` : `\\u{${code}}`
  })
}

/**
 * Applies `visible` to each line of a text and keeps the line breaks. For texts of this program,
 * which may quote file contents.
 */
export function visibleLines(text: string): string {
  return text.split('\n').map(visible).join('\n')
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

/**
 * Makes a line of JSON safe for a terminal, as {@link visibleJson} does, and colours keys, texts and
 * other values.
 */
export function colouredJson(line: string, style: Style): string {
  return visibleJson(line).replaceAll(jsonTokens, (token: string, key: string | undefined) => {
    if (key !== undefined) return style('cyan', key) + token.slice(key.length)
    return style(token.startsWith('"') ? 'green' : 'yellow', token)
  })
}

/** Keys, texts, and numbers, `true`, `false` and `null`. */
const jsonTokens = /("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null/g

/** Formats a value as a line of JSON for programs. The line is safe to print on a terminal too. */
export function jsonLine(value: object): string {
  return `${visibleJson(JSON.stringify(value))}\n`
}

/**
 * Formats a path as one word of a command that a person copies into a shell. The word is quoted if
 * necessary and never looks like an option. Invisible characters are written as escapes, so that
 * they do not affect the terminal. bash, zsh and ksh read these escapes.
 */
export function shellWord(path: string): string {
  const word = path.startsWith('-') ? `./${path}` : path
  if (/^[\w./:-]+$/.test(word)) return word
  if (word.search(unseen) === -1) return `'${word.replaceAll("'", String.raw`'\''`)}'`
  return `$'${word.replaceAll(/['\\]/g, String.raw`\$&`).replaceAll(unseen, escapesOf)}'`
}

/** Escapes each byte on its own, because file names are bytes and a character may have several. */
function escapesOf(character: string): string {
  return Array.from(Buffer.from(character), (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')
}

const steps = ['KiB', 'MiB', 'GiB', 'TiB']

/** Formats bytes as `999 B`, `9.4 KiB` or `3.1 MiB`. */
export function sizeText(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  let size = bytes / 1024
  let step = 0
  // A value that would print as 1024.0 moves to the next unit.
  for (; size >= 1023.95 && step < steps.length - 1; step++) size /= 1024
  return `${size.toFixed(1)} ${steps[step]}`
}

/** Formats a count with digits in groups of three: `7`, `1 234 567`. */
export function countText(count: number): string {
  return String(count).replaceAll(/\B(?=(?:\d{3})+$)/g, ' ')
}

/** Formats a count with its noun: `1 record`, `2 records`. */
export function plural(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? '' : 's'}`
}

/** Formats seconds, rounded up, as `9 s`, `3 min 20 s` or `2 h 5 min`. */
export function durationText(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** Formats a time in ISO 8601 as `2026-11-21 01:52:33`. */
export function timeText(time: string): string {
  return time.replace('T', ' ').slice(0, 19)
}
