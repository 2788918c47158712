import { hasCode, type MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { JournalCursor } from '../ministore/cursor.ts'
import { outlineJournal } from './inspect.ts'
import { RecordCodec } from '../journal/record-codec.ts'
import { recordsWith } from '../ministore/segment-reader.ts'
import type { TornEnd } from '../ministore/scan.ts'
import type { Codec } from '../ministore/settings.ts'
import { JournalViews } from '../ministore/view.ts'

/** The result of reading a whole journal. */
export interface Verification {
  readonly segments: number
  /** Bytes of all segments when the verification began. */
  readonly bytes: number
  /** Number of whole records that could be read. */
  readonly records: number
  readonly firstSequence: number
  readonly lastSequence: number
  /** Number of damages reported. */
  readonly damages: number
  /**
   * The bytes that the next open would cut off the active segment. They are not damage, and may
   * belong to an append that is under way.
   */
  readonly torn: (TornEnd & { readonly segment: string; readonly sequence: number }) | undefined
  /**
   * Whether there is no active segment, as after a crash during a rotation. The next open creates
   * one.
   */
  readonly isActiveMissing: boolean
}

/**
 * Reads every byte of a journal and checks the headers, the order of the segments, the chain of
 * checksums, the seal, the UTF-8, and that every line decodes. Undefined if there is no journal.
 *
 * Takes no lock and changes nothing, so a writer may have the journal open.
 *
 * @param options.onDamage receives each damage at its place in the journal.
 * @param options.codec decodes records in place of JSON.
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION` or `…_IO`; `…_SEQUENCE_GONE` if a
 *   writer deletes segments before they are read.
 * @throws the reason of the signal if it is aborted.
 */
export async function verifyJournal(
  fs: FileSystem,
  path: string,
  options: {
    readonly onDamage: (damage: MiniStoreError) => void
    readonly codec?: Pick<Codec, 'decode'> | undefined
    readonly signal?: AbortSignal | undefined
  },
): Promise<Verification | undefined> {
  let damages = 0
  const report = (damage: MiniStoreError): void => {
    damages++
    options.onDamage(damage)
  }
  // The outline and the cursor share one source, so that it reports damage to segments only once.
  const source = new JournalViews(fs, path)
  const outline = await outlineJournal(fs, source, report)
  if (outline === undefined) return damages === 0 ? undefined : { ...nothing, damages }
  const { view, firstSequence, lastSequence, torn } = outline
  const settings = { from: undefined, to: undefined, signal: undefined, follow: false, salvage: report }
  const codec = new RecordCodec<unknown, never>({ codec: options.codec, path })
  const cursor = new JournalCursor<unknown>(fs, source, recordsWith(codec), settings, view)
  const records = await countRecords(cursor, report, options.signal)
  const segment = view.tail?.segment.name ?? ''
  return {
    segments: view.segments.length,
    bytes: view.segments.reduce((sum, { bytes }) => sum + bytes, 0),
    records,
    firstSequence,
    lastSequence,
    damages,
    torn: torn === undefined ? undefined : { ...torn, segment, sequence: lastSequence + 1 },
    isActiveMissing: view.tail?.segment.number !== undefined,
  }
}

/** The result if no segment has a whole header. */
const nothing: Verification = {
  segments: 0,
  bytes: 0,
  records: 0,
  firstSequence: 1,
  lastSequence: 0,
  damages: 0,
  torn: undefined,
  isActiveMissing: true,
}

async function countRecords(
  cursor: JournalCursor<unknown>,
  report: (damage: MiniStoreError) => void,
  signal: AbortSignal | undefined,
): Promise<number> {
  let records = 0
  try {
    while (await cursor.advance()) {
      signal?.throwIfAborted()
      for (; cursor.hasRecord; records++) cursor.take()
    }
  } catch (error) {
    // For example a line that is longer than a string can be. Nothing after it can be read.
    if (!hasCode(error, 'ERR_MINISTORE_CORRUPT')) throw error
    report(error)
  } finally {
    await cursor.close()
  }
  return records
}
