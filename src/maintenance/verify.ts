import { isMiniStoreError, type MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { JournalCursor } from '../ministore/cursor.ts'
import { outlineJournal } from './inspect.ts'
import { RecordCodec } from '../ministore/record-codec.ts'
import type { TornEnd } from '../ministore/scan.ts'
import type { Codec } from '../ministore/settings.ts'
import { DiskSource } from '../ministore/view.ts'

/** What reading a whole journal has found. */
export interface Verification {
  readonly segments: number
  /** Bytes of all segments, as they were when it began. */
  readonly bytes: number
  /** Whole records that could be read. */
  readonly records: number
  readonly firstSequence: number
  readonly lastSequence: number
  /** How often damage was reported. */
  readonly damages: number
  /** What the next open would cut off the active segment; no damage, and perhaps an append under way. */
  readonly torn: (TornEnd & { readonly segment: string; readonly sequence: number }) | undefined
  /** Whether there is no active segment, as a crash in a rotation leaves it; the next open makes one. */
  readonly isActiveMissing: boolean
}

/**
 * Reads every byte of a journal and checks what can be checked: headers, order, chain, seal, UTF-8, and that
 * every line decodes. Takes no lock and changes nothing. Undefined when there is no journal.
 *
 * @param options.onDamage is told of every damage, in its place.
 * @param options.codec replaces JSON.
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION`, `…_IO`; `…_SEQUENCE_GONE` when a writer
 *   deletes segments before they were read. The signal's reason when it is aborted.
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
  // One source for both, which tells damage to segments once.
  const source = new DiskSource(fs, path)
  const outline = await outlineJournal(fs, source, report)
  if (outline === undefined) return damages === 0 ? undefined : { ...nothing, damages }
  const { view, firstSequence, lastSequence, torn } = outline
  const settings = { from: undefined, to: undefined, signal: undefined, follow: false, salvage: report }
  const codec = new RecordCodec<unknown, never>({ codec: options.codec, path })
  const cursor = new JournalCursor<unknown>(fs, source, codec, settings, view)
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

/** What is found where no segment has a header. */
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
    // Such as a line that is longer than a string can be: nothing behind it can be read.
    if (!isMiniStoreError(error, 'ERR_MINISTORE_CORRUPT')) throw error
    report(error)
  } finally {
    await cursor.close()
  }
  return records
}
