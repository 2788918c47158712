import { setTimeout as delay } from 'node:timers/promises'

import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { countLines } from './format.ts'
import { openSegment } from './open-segment.ts'
import { findTornEnd, type TornEnd } from './scan.ts'
import type { JournalTail, JournalView, ReportDamage } from './segments.ts'
import type { DiskSource } from './view.ts'

/** How a journal stands, by its headers and the end of its last segment. */
export interface JournalOutline {
  readonly view: JournalView
  /** Sequence number of the first record, or of the next one when there is none. */
  readonly firstSequence: number
  /** Sequence number of the last whole record; `firstSequence - 1` when there is none. */
  readonly lastSequence: number
  /** What the active segment has behind its last whole record. */
  readonly torn: TornEnd | undefined
}

/**
 * Looks at a journal, without a lock and without changing anything; undefined when there is none.
 *
 * Reads the headers, and of the last segment what its seal does not cover: however long the journal is, no
 * more of its records is read.
 *
 * @param report is told of damage to segments as such; without it the damage is thrown.
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT`, `…_UNSUPPORTED_VERSION`, `…_IO`.
 */
export async function outlineJournal(
  fs: FileSystem,
  source: DiskSource,
  report?: ReportDamage,
): Promise<JournalOutline | undefined> {
  const { path } = source
  for (let looks = 1; ; looks++) {
    const view = await source.look({ report })
    if (view.tail === undefined) return undefined
    const end = await readEnd(fs, view, view.tail)
    if (end !== undefined) {
      const { firstSequence } = view.tail.segment
      const first = (view.segments[0] ?? view.tail.segment).firstSequence
      return { view, firstSequence: first, lastSequence: firstSequence + end.records - 1, torn: end.torn }
    }
    if (looks === mostLooks) {
      const message = `${path} was moved ${looks} times while its end was being read`
      throw new MiniStoreError('ERR_MINISTORE_IO', message, { path })
    }
    await delay(1)
  }
}

/** A writer that deletes or rolls back while we look makes us look again, so often at most. */
const mostLooks = 100

/** What is in the last segment; undefined when it is gone or was cut meanwhile. */
async function readEnd(
  fs: FileSystem,
  view: JournalView,
  tail: JournalTail,
): Promise<{ records: number; torn: TornEnd | undefined } | undefined> {
  const { segment, bytes: end } = tail
  const { header } = segment
  const file = await openSegment(fs, view, segment)
  if (file === undefined) return undefined
  try {
    // One that claims more than there is, is damage that whoever reads the records is told of.
    const seal = tail.checkpoints.findLast(({ bytes }) => bytes >= header.bytes && bytes <= end)
    const known = seal ?? { bytes: header.bytes, records: 0 }
    let records = known.records
    for await (const { bytes } of readRange(file, { offset: known.bytes, bytes: end - known.bytes })) {
      records += countLines(bytes)
    }
    const isActive = segment.number === undefined
    const torn = isActive ? await findTornEnd(file, { from: header.bytes, end }) : undefined
    return { records: torn?.isEnded === true ? records - 1 : records, torn }
  } catch (error) {
    // Rolled back by its writer while we read: it ends earlier than it did.
    if (isMiniStoreError(error, 'ERR_MINISTORE_IO')) return undefined
    throw error
  } finally {
    await file.close()
  }
}
