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
 * A text that comes from a file, fit for a terminal: control characters, which could do anything there, are
 * shown as escapes.
 */
export function visible(text: string): string {
  // oxlint-disable-next-line no-control-regex -- these are what is looked for
  return text.replaceAll(/[\u0000-\u001F\u007F-\u009F]/g, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`
  })
}

/** The same for a text of ours that may quote one: its lines stay lines. */
export function visibleLines(text: string): string {
  return text.split('\n').map(visible).join('\n')
}
