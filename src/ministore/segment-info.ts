import type { JournalView } from './journal-source.ts'

/** One segment of an open store. */
export interface SegmentInfo {
  /** Path of the file. */
  readonly path: string
  /** Whether it is complete; the one that is not is the active segment. */
  readonly isSealed: boolean
  /** Sequence number of its first record, or the one it will have. */
  readonly firstSequence: number
  /** Sequence number of its last record; `firstSequence - 1` while it is empty. */
  readonly lastSequence: number
  /** Size of the file, as far as it is acknowledged. */
  readonly bytes: number
  /** Version of the format in its header. */
  readonly version: string
}

/** The segments of a view, for users. */
export function describeSegments({ segments, tail }: JournalView, lastSequence: number): SegmentInfo[] {
  return segments.map(({ path, number, firstSequence, bytes, header }, index) => ({
    path,
    isSealed: number !== undefined,
    firstSequence,
    lastSequence: (segments[index + 1]?.firstSequence ?? lastSequence + 1) - 1,
    bytes: number === undefined ? (tail?.bytes ?? bytes) : bytes,
    version: header.version,
  }))
}
