import { MiniStoreError } from '../errors.ts'
import type { JournalTail } from './journal-source.ts'
import type { SegmentReader } from './segment-reader.ts'
import { damaged, type Segment } from './segments.ts'

/** Whether the last line may be half written: in the active segment of another process, while it was looked at. */
export function mayBeTorn({ segment, isAcknowledged }: JournalTail): boolean {
  return !isAcknowledged && segment.number === undefined
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

/** The damage when a segment that is being read has become part of another journal. */
export function replaced(path: string, reading: Segment): MiniStoreError {
  return damaged(path, reading.name, 'the journal was replaced by another while it was being followed')
}

/** The error for a record that retention or truncation has removed; `first` is the first segment there is. */
export function gone(path: string, wanted: number, first: Segment): MiniStoreError {
  return new MiniStoreError(
    'ERR_MINISTORE_SEQUENCE_GONE',
    `Record ${wanted} was removed by retention or truncation; the first there is has sequence ${first.firstSequence}`,
    { path, sequence: wanted },
  )
}
