import type { Codec } from '../ministore/settings.ts'
import type { Io } from './io.ts'
import { visibleJson } from './terminal/style.ts'

/**
 * Reads records as the lines they are, byte for byte: numbers, spaces and the order of keys stay as they were
 * written.
 */
export function lineCodec(options: { readonly isJson: boolean }): Pick<Codec<never, string>, 'decode'> {
  return { decode: options.isJson ? checkedLine : (line) => line }
}

function checkedLine(line: string): string {
  JSON.parse(line)
  return line
}

/**
 * A record as it is printed: byte for byte, but on a terminal, to which it could do things. There what is not seen
 * stands as an escape of JSON, so that a line that is copied from it has the same value.
 */
export function recordLine(record: string, { stdout }: Pick<Io, 'stdout'>): string {
  return `${stdout.isTerminal ? visibleJson(record) : record}\n`
}

/** A record with its sequence number as one object of JSON; the text of another codec becomes a string. */
export function numbered(entry: { readonly sequence: number; readonly record: string }, isJson: boolean): string {
  const { sequence, record } = entry
  return `{"sequence":${sequence},"record":${isJson ? record : JSON.stringify(record)}}`
}
