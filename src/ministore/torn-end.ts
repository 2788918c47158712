import type { File } from '../fs/file-system.ts'
import { readFully } from '../fs/read-range.ts'
import { describeUncleanLine, isCleanLine } from './line-checks.ts'

/** Bytes at the end of an active segment that are no whole, clean line: what the next open would cut off. */
export interface TornEnd {
  /** Where in the segment they begin. */
  readonly offset: number
  readonly bytes: number
  readonly reason: string
  /** Whether they end in a line feed, so that counting lines counts them. */
  readonly isEnded: boolean
}

/**
 * The torn end of an active segment, if it has one, by its last line alone. While a writer is at work it may
 * be an append that is under way.
 *
 * @param part the bytes behind the header, up to where the segment was looked at.
 */
export async function findTornEnd(
  file: File,
  part: { readonly from: number; readonly end: number },
): Promise<TornEnd | undefined> {
  const { from, end } = part
  if (end <= from) return undefined
  const { offset, bytes } = await readLastLine(file, from, end)
  const isEnded = bytes.at(-1) === newline
  const torn = { offset, bytes: bytes.length, isEnded }
  if (!isEnded) return { ...torn, reason: 'the line has no line feed' }
  const line = bytes.subarray(0, -1)
  return isCleanLine(line) ? undefined : { ...torn, reason: describeUncleanLine(line) }
}

const newline = 0x0a
const firstStepBytes = 4096

/** The last line of a part of a file, with its line feed if it has one. */
async function readLastLine(
  file: File,
  from: number,
  end: number,
): Promise<{ offset: number; bytes: Buffer }> {
  for (let step = firstStepBytes; ; step *= 2) {
    const start = Math.max(from, end - step)
    const buffer = Buffer.allocUnsafe(end - start)
    await readFully(file, buffer, start)
    // The line feed that ends the line before; that of the last line itself does not count.
    const before = buffer.length < 2 ? -1 : buffer.lastIndexOf(newline, buffer.length - 2)
    if (before !== -1 || start === from)
      return { offset: start + before + 1, bytes: buffer.subarray(before + 1) }
  }
}
