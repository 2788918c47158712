import { isUtf8 } from 'node:buffer'

const newline = 0x0a
const emptyLine = Buffer.from('\n\n')

/**
 * Whether a block of whole lines holds nothing that no writer writes: a blank line, a NUL, bytes that are not
 * UTF-8. Fast, for the case that it does not.
 */
export function isCleanBlock(block: Buffer): boolean {
  return isUtf8(block) && !block.includes(0) && block[0] !== newline && !block.includes(emptyLine)
}

/** Whether one line, given without its `\n`, is such. */
export function isCleanLine(line: Buffer): boolean {
  return line.length > 0 && !line.includes(0) && isUtf8(line)
}

/** What is wrong with a line that is not clean, for an error message. */
export function describeUncleanLine(line: Buffer): string {
  if (line.length === 0) return 'the line is blank'
  return line.includes(0) ? `the line holds a NUL byte` : 'the line is not UTF-8'
}

/** Offset in a block of whole lines after its first `count` lines. */
export function offsetAfterLines(block: Buffer, count: number): number {
  let offset = 0
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
