import { isUtf8 } from 'node:buffer'

import { sizeText } from './terminal/units.ts'

/** One line of standard input that is not blank. */
export interface InputLine {
  /** Counted from 1, blank lines too. */
  readonly number: number
  /** Without its line ending. */
  readonly text: string
}

/** What a line of the input is, when it cannot be taken. */
export class BadInputError extends Error {
  override readonly name = 'BadInputError'
  readonly line: number

  constructor(line: number, problem: string) {
    super(`Line ${line} of the input ${problem}`)
    this.line = line
  }
}

/**
 * The lines of a stream of bytes. Lines end in `\n` or `\r\n`; the last one need not end. Blank lines are
 * passed over: there is no record in them. Holds one line and one chunk.
 *
 * @param maxLineBytes a longer line is refused before it has come in whole.
 * @throws {BadInputError} for a line that is too long or not UTF-8.
 */
export async function* inputLines(
  input: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<InputLine> {
  let number = 0
  let parts: Buffer[] = []
  let bytes = 0
  const tooLong = (line: number): BadInputError => new BadInputError(line, `is longer than ${sizeText(maxLineBytes)}`)
  const take = (part: Buffer): void => {
    bytes += part.length
    // The one more may be a `\r`.
    if (bytes > maxLineBytes + 1) throw tooLong(number + 1)
    parts.push(part)
  }
  const finish = (): InputLine | undefined => {
    const whole = parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts)
    parts = []
    bytes = 0
    number++
    const line = whole.at(-1) === carriageReturn ? whole.subarray(0, -1) : whole
    if (line.length > maxLineBytes) throw tooLong(number)
    if (!isUtf8(line)) throw new BadInputError(number, 'is not UTF-8')
    const text = line.toString()
    return /^\s*$/.test(text) ? undefined : { number, text }
  }
  for await (const given of input) {
    const chunk = Buffer.from(given.buffer, given.byteOffset, given.byteLength)
    let from = 0
    for (let end; (end = chunk.indexOf(newline, from)) !== -1; from = end + 1) {
      take(chunk.subarray(from, end))
      const line = finish()
      if (line !== undefined) yield line
    }
    if (from < chunk.length) take(chunk.subarray(from))
  }
  const line = bytes === 0 ? undefined : finish()
  if (line !== undefined) yield line
}

const newline = 0x0a
const carriageReturn = 0x0d
