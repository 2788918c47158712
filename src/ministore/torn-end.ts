import type { File } from '../fs/file-system.ts'
import { readFully, readRange } from '../fs/bytes.ts'
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

/** A line longer than this is looked at piece by piece where it may be a torn one: a sparse file may end in gigabytes of NULs. */
export const longLineBytes: number = 1024 * 1024

/**
 * The torn end of an active segment, if it has one, by its last line alone. While a writer is at work it may
 * be an append that is under way. Holds a small part of the line at a time, however long it is.
 *
 * @param part the bytes behind the header, up to where the segment was looked at.
 */
export async function findTornEnd(
  file: File,
  part: { readonly from: number; readonly end: number },
): Promise<TornEnd | undefined> {
  const { from, end } = part
  if (end <= from) return undefined
  const { offset, isEnded } = await findLastLine(file, from, end)
  const bytes = end - offset
  if (!isEnded) return { offset, bytes, isEnded, reason: 'the line has no line feed' }
  const reason = await describeIfUnclean(file, { offset, bytes: bytes - 1 })
  return reason === undefined ? undefined : { offset, bytes, isEnded, reason }
}

/** A torn end that is too long to be read as a line. */
export async function findLongTornEnd(
  file: File,
  part: { readonly from: number; readonly end: number },
): Promise<TornEnd | undefined> {
  if (part.end - part.from <= longLineBytes) return undefined
  const torn = await findTornEnd(file, part)
  return torn !== undefined && torn.bytes > longLineBytes ? torn : undefined
}

const newline = 0x0a
const firstStepBytes = 4096

/** Where the last line of a part of a file begins, and whether it has a line feed. */
async function findLastLine(file: File, from: number, end: number): Promise<{ offset: number; isEnded: boolean }> {
  let isEnded = false
  let space = Buffer.allocUnsafe(firstStepBytes)
  for (let to = end; to > from; ) {
    const start = Math.max(from, to - space.length)
    const buffer = space.subarray(0, to - start)
    await readFully(file, buffer, start)
    if (to === end) isEnded = buffer.at(-1) === newline
    // The line feed that ends the line before; that of the last line itself does not count.
    const lines = to === end && isEnded ? buffer.subarray(0, -1) : buffer
    const before = lines.lastIndexOf(newline)
    if (before !== -1) return { offset: start + before + 1, isEnded }
    to = start
    // Most lines end here. What is longer is read in larger steps.
    if (space.length < longLineBytes) space = Buffer.allocUnsafe(longLineBytes)
  }
  return { offset: from, isEnded }
}

/** What is wrong with a line, given without its line feed. */
async function describeIfUnclean(
  file: File,
  line: { readonly offset: number; readonly bytes: number },
): Promise<string | undefined> {
  if (line.bytes === 0) return describeUncleanLine(Buffer.alloc(0))
  let problem: string | undefined
  // The last character of a chunk may end in the next one.
  let carried = Buffer.alloc(0)
  for await (const { bytes, position } of readRange(file, line)) {
    const isLast = position + bytes.length === line.bytes
    const chunk = carried.length === 0 ? bytes : Buffer.concat([carried, bytes])
    const cut = isLast ? chunk.length : startOfLastCharacter(chunk)
    const text = chunk.subarray(0, cut)
    if (text.includes(0)) return describeUncleanLine(text)
    if (text.length > 0 && !isCleanLine(text)) problem ??= describeUncleanLine(text)
    carried = Buffer.from(chunk.subarray(cut))
  }
  return problem
}

/** Where the last character begins: UTF-8 has up to three bytes behind the first, which begin with the bits 10. */
function startOfLastCharacter(bytes: Buffer): number {
  let at = bytes.length - 1
  while (at > 0 && at > bytes.length - 4 && ((bytes[at] as number) & 0xc0) === 0x80) at--
  return at
}
