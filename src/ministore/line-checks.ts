import { isAscii, isUtf8, transcode } from 'node:buffer'

const newline = 0x0a
const emptyLine = Buffer.from('\n\n')

export const blankLine = 'the line is blank'

/**
 * Whether a block of whole lines holds nothing that no writer writes: a blank line, a NUL, bytes that are not
 * UTF-8. Fast, for the case that it does not.
 */
export function isCleanBlock(block: Buffer): boolean {
  return isUtf8(block) && !block.includes(0) && block[0] !== newline && !block.includes(emptyLine)
}

/** The text of a block, or undefined when it holds a NUL or is not UTF-8. */
export function textOf(block: Buffer): string | undefined {
  if (block.includes(0)) return undefined
  // Most journals are ASCII, whose bytes are the text.
  if (isAscii(block)) return block.toString('latin1')
  return isUtf8(block) ? decodeUtf8(block) : undefined
}

/** `toString('utf8')` in a third of its time where Node goes character by character (20 does). */
function decodeUtf8(block: Buffer): string {
  // A Node built without ICU has no `transcode`, whatever its type says.
  if (typeof transcode !== 'function') return block.toString('utf8')
  return transcode(block, 'utf8', 'utf16le').toString('utf16le')
}

/** Whether one line, given without its `\n`, is such. */
export function isCleanLine(line: Buffer): boolean {
  return line.length > 0 && !line.includes(0) && isUtf8(line)
}

/** What is wrong with a line that is not clean, for an error message. */
export function describeUncleanLine(line: Buffer): string {
  if (line.length === 0) return blankLine
  return line.includes(0) ? `the line holds a NUL byte` : 'the line is not UTF-8'
}

/** Offset in a block of whole lines after `count` lines, counted from the line that begins at `from`. */
export function offsetAfterLines(block: Buffer, count: number, from = 0): number {
  let offset = from
  for (let line = 0; line < count; line++) offset = block.indexOf(newline, offset) + 1
  return offset
}

/** The whole lines of a block, one by one, without their `\n`. */
export function* linesOf(block: Buffer): Generator<{ readonly index: number; readonly offset: number; readonly line: Buffer }> {
  for (let index = 0, offset = 0; offset < block.length; index++) {
    const end = block.indexOf(newline, offset)
    yield { index, offset, line: block.subarray(offset, end) }
    offset = end + 1
  }
}
