import { AsyncResource } from 'node:async_hooks'
import { setTimeout as delay } from 'node:timers/promises'

import { FromCaller, settledOrAborted, tellDamage, throwIfAborted } from '../async.ts'
import { ioError, isInstance, MiniStoreError } from '../errors.ts'
import { type FileSystem, isNotFound } from '../fs/file-system.ts'
import type { RecordCodec } from './record-codec.ts'
import { type Batch, SegmentReader, type SegmentSource } from './segment-reader.ts'
import {
  damaged, isSameSegment, type JournalSource, type JournalTail, type JournalView, type Segment,
} from './segments.ts'
import type { StreamSettings } from './settings.ts'

/** How often a name may turn out to belong to another file before that counts as an error. */
const maxMoves = 1000

/**
 * Walks a journal record by record, from segment to segment. Opens nothing before the first {@link advance}.
 *
 * A reader takes no lock, so the writer may rename and delete segments while it walks. It holds on to the file
 * it has open, which no rename or deletion takes away, and finds the next segment by sequence number:
 * when a name leads elsewhere than expected it looks anew, and when the record it wants is
 * gone it says so. It never steps over a record without a word.
 */
export class JournalCursor<T> {
  readonly #source: JournalSource
  readonly #segments: SegmentSource<T>
  readonly #settings: StreamSettings
  /** That in which the stream was made: codec, schema and `salvage` run in it, whoever reads. */
  readonly #context = new AsyncResource('ministore.stream')
  readonly #stop = new AbortController()
  /** The last look, for the way from segment to segment. */
  #view: JournalView | undefined
  /** Where the replay ends: seen at the first look, or, when it follows, at the last. */
  #tail: JournalTail | undefined
  #reader: SegmentReader<T> | undefined
  /** The segment before the one that is read, or is to be read. */
  #left: LeftSegment | undefined
  /** Sequence number of the next record to load. */
  #sequence: number | undefined
  /** The last one first: taking from the end costs the same however many there are. */
  #loaded: Array<Batch<T>> = []
  #batch: Batch<T> = { firstSequence: 0, records: [] }
  #index = 0
  #isDone = false
  #advancing: Promise<boolean> | undefined
  #closing: Promise<void> | undefined

  /** @param view how the journal stood when the stream was made; without one it is looked at when first needed. */
  constructor(
    fs: FileSystem,
    source: JournalSource,
    codec: RecordCodec<T, never>,
    settings: StreamSettings,
    view?: JournalView,
  ) {
    this.#source = source
    this.#segments = { fs, path: source.path, codec, spareBuffers: [], sinceTurn: { bytes: 0 } }
    this.#settings = settings
    this.#view = view
    this.#tail = view?.tail
    this.#sequence = settings.from
  }

  /** Whether a record is loaded: then {@link take} has it at once. */
  get hasRecord(): boolean {
    return this.#index < this.#batch.records.length
  }

  /** Sequence number of the record that {@link take} gives next. */
  get sequence(): number {
    return this.#batch.firstSequence + this.#index
  }

  /** The next record. Only when {@link hasRecord}. */
  take(): T {
    return this.#batch.records[this.#index++] as T
  }

  /**
   * Loads records until there is one to take; false at the end. Calls must not overlap.
   *
   * @throws the first damage, unless it is salvaged, and whatever else goes wrong; then the cursor is closed.
   */
  advance(): Promise<boolean> {
    return (this.#advancing = this.#context.runInAsyncScope(() => this.#advance()))
  }

  /**
   * Frees the file, once a call of the disk that is under way has come back. A pending {@link advance} rejects with the
   * reason; whatever else it waits for, it waits no longer.
   */
  close(reason?: unknown): Promise<void> {
    this.#stop.abort(reason)
    // A file must not be closed under a read that is under way.
    this.#closing ??= Promise.resolve(this.#advancing)
      .catch(() => {})
      .then(() => this.#release())
    return this.#closing
  }

  async #advance(): Promise<boolean> {
    try {
      for (;;) {
        throwIfAborted(this.#stop.signal)
        if (this.hasRecord) return true
        if (this.#batch.damage !== undefined) await this.#raise(this.#batch.damage)
        this.#batch = this.#loaded.pop() ?? { firstSequence: 0, records: [] }
        this.#index = 0
        if (this.#batch.records.length > 0 || this.#batch.damage !== undefined) continue
        if (this.#isDone) {
          await this.#release()
          return false
        }
        await this.#load()
      }
    } catch (error) {
      // What went wrong first is what counts.
      await this.#release().catch(() => {})
      this.#isDone = true
      this.#loaded = []
      this.#batch = { firstSequence: 0, records: [] }
      if (this.#stop.signal.aborted) throw this.#stop.signal.reason
      throw isInstance(error, FromCaller) ? error.cause : ioError('read the journal', error, this.#source)
    }
  }

  async #release(): Promise<void> {
    const reader = this.#reader
    this.#reader = undefined
    this.#source.close()
    await reader?.close()
  }

  async #load(): Promise<void> {
    const reader = (this.#reader ??= await this.#openSegment())
    if (reader === undefined) return
    const { to = Number.POSITIVE_INFINITY } = this.#settings
    const tail = this.#tailIn(reader)
    const batches = await reader.next({
      from: this.#sequence ?? reader.segment.firstSequence,
      to,
      end: tail?.bytes ?? Number.POSITIVE_INFINITY,
      mayBeTorn: tail !== undefined && mayBeTorn(tail),
      checkpoints: tail?.checkpoints ?? [],
      signal: this.#stop.signal,
    })
    if (batches === undefined) return this.#leave(reader)
    this.#loaded = batches.toReversed()
    if (reader.nextSequence > (this.#sequence ?? 0)) this.#sequence = reader.nextSequence
    if (reader.nextSequence > to) this.#isDone = true
  }

  /** The tail, if it is in this reader's segment. */
  #tailIn(reader: SegmentReader<T>): JournalTail | undefined {
    return this.#tail !== undefined && isSameSegment(this.#tail.segment, reader.segment) ? this.#tail : undefined
  }

  async #look(since?: JournalView): Promise<JournalView> {
    const { path } = this.#source
    const damages: MiniStoreError[] = []
    const report = this.#settings.salvage && ((damage: MiniStoreError): void => void damages.push(damage))
    const view = await this.#source.look({ since, report })
    for (const damage of damages) await this.#raise(damage)
    const seen = this.#view?.segments.at(-1)
    if (seen !== undefined && view.segments.length === 0) await this.#raise(deleted(path, seen))
    const end = this.#tail?.segment
    if (end !== undefined && isReplaced(view, end)) throw replaced(path, end, this.#settings)
    if (this.#settings.follow || this.#tail === undefined) this.#tail = view.tail
    this.#view = view
    return view
  }

  /** Opens the segment that holds the next record; undefined when there is none yet or none at all. */
  async #openSegment(): Promise<SegmentReader<T> | undefined> {
    let view = this.#view ?? (await this.#look())
    for (let moves = 0; moves < maxMoves; moves++) {
      const first = view.segments[0]
      if (first === undefined) {
        await this.#waitForMore(view)
        return undefined
      }
      const wanted = (this.#sequence ??= first.firstSequence)
      // Where nothing is left to give, no file is opened: it may be gone by now.
      if (this.#isBeyondRange(wanted)) {
        this.#isDone = true
        return undefined
      }
      const segment = view.segments.findLast(({ firstSequence }) => firstSequence <= wanted)
      if (segment === undefined) throw gone(this.#source.path, wanted, first)
      if (this.#tail !== undefined && segment.firstSequence > this.#tail.segment.firstSequence) {
        this.#isDone = true
        return undefined
      }
      const left = this.#left
      if (left !== undefined && wanted === left.nextSequence && !goesOn(segment, left)) {
        throw replaced(this.#source.path, left.segment, this.#settings)
      }
      try {
        const reader = await SegmentReader.open(segment, this.#segments)
        if (reader !== undefined) return reader
      } catch (error) {
        if (!isNotFound(error)) throw error
      }
      throwIfAborted(this.#stop.signal)
      // A writer in another process is renaming; the first time it has mostly finished by now.
      if (moves > 0) await delay(1)
      view = await this.#look()
    }
    const message = `${this.#source.path} was moved ${maxMoves} times while a segment of it was being opened`
    throw new MiniStoreError('ERR_MINISTORE_IO', message, { path: this.#source.path })
  }

  #isBeyondRange(wanted: number): boolean {
    const { to = Number.POSITIVE_INFINITY, follow } = this.#settings
    return wanted > to || (!follow && this.#tail !== undefined && endsBefore(this.#tail, wanted))
  }

  /** Goes on from the end of what may be read of a segment. */
  async #leave(reader: SegmentReader<T>): Promise<void> {
    const tail = this.#tailIn(reader)
    if (tail === undefined) return this.#enterNext(reader)
    await this.#raise(missingBytes(this.#source.path, reader, tail))
    if (this.#settings.follow) {
      // Half a line may be rolled back and become another one: it is read again.
      const isRestless = reader.hasRest
      reader.forgetRest()
      return this.#waitForMore(this.#view as JournalView, isRestless)
    }
    if (!mayBeTorn(tail) && reader.hasRest) await this.#raise(unendedLine(this.#source.path, reader))
    this.#isDone = true
  }

  async #waitForMore(view: JournalView, isRestless = false): Promise<void> {
    const { signal } = this.#stop
    if (this.#settings.follow && (await this.#source.changedSince(view, { signal, isRestless }))) await this.#look(view)
    else this.#isDone = true
  }

  /** Leaves a sealed segment: holds what was read of it against the header of the one after it. */
  async #enterNext(reader: SegmentReader<T>): Promise<void> {
    const { path } = this.#source
    const next = this.#after(reader)
    if (reader.hasRest) await this.#raise(unendedLine(path, reader))
    const { previousCrc32 } = next?.header ?? {}
    if (previousCrc32 !== undefined && previousCrc32 !== reader.crc32) {
      await this.#raise(changedSinceSealed(path, reader))
    }
    if (next !== undefined && next.firstSequence !== reader.nextSequence) {
      await this.#raise(notNext(path, next, reader))
    }
    this.#left = { segment: reader.segment, nextSequence: reader.nextSequence, crc32: reader.crc32, next }
    this.#reader = undefined
    await reader.close()
    // Without a next segment in sight (deleted meanwhile), the sequence says where to go on, or that it is gone.
    this.#sequence = Math.max(this.#sequence ?? 0, next?.firstSequence ?? reader.nextSequence)
  }

  /** The segment after the reader's, if the view has both. */
  #after(reader: SegmentReader<T>): Segment | undefined {
    const { segments } = this.#view as JournalView
    const at = segments.findIndex((segment) => isSameSegment(segment, reader.segment))
    return at === -1 ? undefined : segments[at + 1]
  }

  /** Ends the stream with damage, or reports it and waits until that is done. */
  async #raise(damage: MiniStoreError | undefined): Promise<void> {
    if (damage === undefined) return
    if (this.#settings.salvage === undefined) throw damage
    this.#batch = { firstSequence: this.#batch.firstSequence, records: [] }
    this.#index = 0
    const telling = tellDamage(this.#settings.salvage, damage)
    if (telling !== undefined) await settledOrAborted(telling, this.#stop.signal)
  }
}

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
