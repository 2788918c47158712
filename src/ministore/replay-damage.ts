import { MiniStoreError } from '../errors.ts'
import type { JournalTail, JournalView } from './journal-source.ts'
import type { SegmentReader } from './segment-reader.ts'
import { damaged, isSameSegment, type Segment } from './segments.ts'

/** Whether the last line may be half written: in the active segment of another process, while it was looked at. */
export function mayBeTorn({ segment, isAcknowledged }: JournalTail): boolean {
  return !isAcknowledged && segment.number === undefined
}

/** Whether no record with this number or a later one is before a tail; false as well when only reading it would tell. */
export function endsBefore({ segment, bytes, checkpoints }: JournalTail, sequence: number): boolean {
  // A seal of more bytes than there are is damage, which reading the segment tells.
  if (checkpoints.some((known) => known.bytes > bytes)) return false
  const records = bytes <= segment.header.bytes ? 0 : checkpoints.find((known) => known.bytes === bytes)?.records
  return records !== undefined && sequence >= segment.firstSequence + records
}

/** The damage when a segment holds less than is known to have been in it, or than was read of it before. */
export function missingBytes(path: string, reader: SegmentReader<unknown>, tail: JournalTail): MiniStoreError | undefined {
  const known = tail.checkpoints.at(-1)?.bytes ?? 0
  if (reader.bytes < known) {
    const problem = `it is known to have had ${known} bytes of whole lines and has ${reader.bytes}`
    return damaged(path, reader.segment.name, problem, { sequence: reader.nextSequence })
  }
  if (reader.bytes <= tail.bytes) return undefined
  const problem = `it was cut to ${tail.bytes} bytes after ${reader.bytes} were read: an append that was under way failed`
  return damaged(path, reader.segment.name, problem, { sequence: reader.nextSequence })
}

/** The damage when a sealed segment ends within a line. */
export function unendedLine(path: string, reader: SegmentReader<unknown>): MiniStoreError {
  const problem = `it is sealed, but its last line, at offset ${reader.bytes}, has no line feed`
  return damaged(path, reader.segment.name, problem, { sequence: reader.nextSequence })
}

/** The damage when the next header has another checksum of a sealed segment than what was read of it. */
export function changedSinceSealed(path: string, reader: SegmentReader<unknown>): MiniStoreError {
  return damaged(path, reader.segment.name, 'it has changed since it was sealed (wrong checksum)')
}

/** The damage when a segment does not go on where the one before it ended. */
export function notNext(path: string, next: Segment, reader: SegmentReader<unknown>): MiniStoreError {
  const problem = `it begins with sequence ${next.firstSequence}, expected ${reader.nextSequence}`
  return damaged(path, next.name, problem, { sequence: next.firstSequence })
}

/** The damage when no segment is left of a journal, `last` having been there. */
export function deleted(path: string, last: Segment): MiniStoreError {
  return damaged(path, last.name, 'the journal was deleted while it was being read')
}

/** The damage when a segment that was read, or was there to be read, is no part of the journal any more. */
export function replaced(path: string, known: Segment, { follow }: { readonly follow: boolean }): MiniStoreError {
  const problem = `the journal was replaced by another while it was being ${follow ? 'followed' : 'read'}`
  return damaged(path, known.name, problem)
}

/** Whether a segment is missing in a journal, and not because it was among the oldest. */
export function isReplaced({ segments }: JournalView, known: Segment): boolean {
  const [first] = segments
  if (first === undefined || first.firstSequence > known.firstSequence) return false
  return !segments.some((segment) => isSameSegment(segment, known))
}

/** A segment that was read to its end, and the one that was behind it then. */
export interface LeftSegment {
  readonly segment: Segment
  readonly nextSequence: number
  readonly crc32: number
  readonly next: Segment | undefined
}

/**
 * Whether a segment goes on where another ended: it begins with the next record and its `prev` is the checksum of all
 * that was read. A header of version 0.1 has none.
 */
export function goesOn(segment: Segment, left: LeftSegment): boolean {
  // Held against it, and told of, when the one before it was still in sight.
  if (left.next !== undefined && isSameSegment(segment, left.next)) return true
  const { firstSequence, header } = segment
  if (firstSequence !== left.nextSequence) return false
  return header.previousCrc32 === undefined ? header.sequence === undefined : header.previousCrc32 === left.crc32
}

/** The error for a record that retention or truncation has removed; `first` is the first segment there is. */
export function gone(path: string, wanted: number, first: Segment): MiniStoreError {
  return new MiniStoreError(
    'ERR_MINISTORE_SEQUENCE_GONE',
    `Record ${wanted} was removed by retention or truncation; the first there is has sequence ${first.firstSequence}`,
    { path, sequence: wanted },
  )
}
