import type { Codec } from '../ministore/settings.ts'

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

/** A record with its sequence number as one line of JSON; the text of another codec becomes a string. */
export function numberedLine(
  entry: { readonly sequence: number; readonly record: string },
  isJson: boolean,
): string {
  const { sequence, record } = entry
  return `{"sequence":${sequence},"record":${isJson ? record : JSON.stringify(record)}}\n`
}
