import { AsyncResource } from 'node:async_hooks'
import { setTimeout as delay } from 'node:timers/promises'

import { CallbackError, settledOrAborted, tellDamage, throwIfAborted } from '../async.ts'
import { hasCode, ioError, isInstance, MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { RecordCodec } from './record-codec.ts'
import { type Batch, SegmentReader, type SegmentSource } from './segment-reader.ts'
import {
  damaged, isSameSegment, type JournalSource, type JournalTail, type JournalView, type Segment,
} from './segments.ts'
import type { StreamSettings } from './settings.ts'

/** How often a segment may be renamed or deleted while it is opened before that is an error. */
const maxMoves = 1000

/**
 * Reads a journal record by record, from segment to segment. Opens nothing before the first
 * {@link advance}.
 *
 * Invariant: the cursor never skips a record silently. It gives the next record, reports damage or
 * ends with an error.
 *
 * A reader takes no lock, so the writer may rename and delete segments at any time. Neither affects
 * the file that the cursor has open. The cursor finds the next segment by sequence number. If a
 * name leads to another file than expected, it surveys the journal again. If the next record was
 * deleted, it ends with `ERR_MINISTORE_SEQUENCE_GONE`.
 */
export class JournalCursor<T> {
  readonly #source: JournalSource
  readonly #segments: SegmentSource<T>
  readonly #settings: StreamSettings
  /**
   * The asynchronous context in which the stream was created. The codec, the schema and `salvage`
   * run in it, regardless of the context that reads.
   */
  readonly #context = new AsyncResource('ministore.stream')
  readonly #stop = new AbortController()
  /** The view from the last survey, used to find the next segment. */
  #view: JournalView | undefined
  /**
   * Where the replay ends: as of the first view or, for a follower, of the last view. It names its
   * segment, because the view may be newer: its checkpoints must not be used for another segment.
   */
  #tail: JournalTail | undefined
  #reader: SegmentReader<T> | undefined
  /** The segment before the current one, or before the one to be opened next. */
  #left: LeftSegment | undefined
  /** Sequence number of the next record to load. */
  #sequence: number | undefined
  /** Batches in reverse order, because taking the last element costs the same for any length. */
  #loaded: Array<Batch<T>> = []
  #batch: Batch<T> = { firstSequence: 0, records: [] }
  #index = 0
  #isDone = false
  #advancing: Promise<boolean> | undefined
  #closing: Promise<void> | undefined

  /**
   * @param view of the journal when the stream was created. Without it, the journal is surveyed at
   *   the first {@link advance}.
   */
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

  /** Whether a record is loaded, so that {@link take} may be called. */
  get hasRecord(): boolean {
    return this.#index < this.#batch.records.length
  }

  /** Sequence number of the record that {@link take} returns next. */
  get sequence(): number {
    return this.#batch.firstSequence + this.#index
  }

  /** Returns the next record. Call it only while {@link hasRecord} is true. */
  take(): T {
    return this.#batch.records[this.#index++] as T
  }

  /**
   * Loads records until there is one to take. Resolves with false at the end of the replay. Calls
   * must not overlap.
   *
   * Any error closes the cursor.
   *
   * @throws {MiniStoreError} the first damage, unless `salvage` is set, or any other failure.
   * @throws the error of `salvage`, or the reason for which the cursor was closed.
   */
  advance(): Promise<boolean> {
    return (this.#advancing = this.#context.runInAsyncScope(() => this.#advance()))
  }

  /**
   * Closes the file, after waiting only for a read of it that is already under way. A pending
   * {@link advance} stops every other wait and rejects with the reason.
   */
  close(reason?: unknown): Promise<void> {
    this.#stop.abort(reason)
    // A file must not be closed during a read of it.
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
      // The first error is reported, not one from closing the file.
      await this.#release().catch(() => {})
      this.#isDone = true
      this.#loaded = []
      this.#batch = { firstSequence: 0, records: [] }
      if (this.#stop.signal.aborted) throw this.#stop.signal.reason
      throw isInstance(error, CallbackError) ? error.cause : ioError('read the journal', error, this.#source)
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

  /** The end of the replay, if it lies in the segment of this reader. */
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

  /**
   * Opens the segment that holds the next record. Undefined if the replay is done, or if a follower
   * has waited for the first segment of the journal and must try again.
   */
  async #openSegment(): Promise<SegmentReader<T> | undefined> {
    let view = this.#view ?? (await this.#look())
    for (let moves = 0; moves < maxMoves; moves++) {
      const first = view.segments[0]
      if (first === undefined) {
        await this.#waitForMore(view)
        return undefined
      }
      const wanted = (this.#sequence ??= first.firstSequence)
      // No file is opened if no record is left to give. The segment may have been deleted by now.
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
        if (!hasCode(error, 'ENOENT')) throw error
      }
      throwIfAborted(this.#stop.signal)
      // A writer in another process is renaming. It has usually finished by the first retry, so
      // only later retries wait.
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

  /**
   * Continues after the readable part of a segment: with the next one, by waiting, or not at all.
   */
  async #leave(reader: SegmentReader<T>): Promise<void> {
    const tail = this.#tailIn(reader)
    if (tail === undefined) return this.#enterNext(reader)
    await this.#raise(missingBytes(this.#source.path, reader, tail))
    if (this.#settings.follow) {
      // The writer may roll back half a line and write another in its place, so it is read again.
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

  /** Leaves a sealed segment, after checking the bytes read against the header of the next one. */
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
    // The view may show no next segment if segments were deleted meanwhile. Then the sequence
    // number finds the next segment, or shows that the record is gone.
    this.#sequence = Math.max(this.#sequence ?? 0, next?.firstSequence ?? reader.nextSequence)
  }

  /** The segment after that of the reader, if the view contains both. */
  #after(reader: SegmentReader<T>): Segment | undefined {
    const { segments } = this.#view as JournalView
    const at = segments.findIndex((segment) => isSameSegment(segment, reader.segment))
    return at === -1 ? undefined : segments[at + 1]
  }

  /** Throws the damage or, with `salvage`, reports it and waits for the promise that it returns. */
  async #raise(damage: MiniStoreError | undefined): Promise<void> {
    if (damage === undefined) return
    if (this.#settings.salvage === undefined) throw damage
    this.#batch = { firstSequence: this.#batch.firstSequence, records: [] }
    this.#index = 0
    const telling = tellDamage(this.#settings.salvage, damage)
    if (telling !== undefined) await settledOrAborted(telling, this.#stop.signal)
  }
}

/**
 * Whether the last line may be half written. Only the active segment can end like that, and only if
 * its end is not known from the writer in this thread.
 */
export function mayBeTorn({ segment, isAcknowledged }: JournalTail): boolean {
  return !isAcknowledged && segment.number === undefined
}

/**
 * Whether the journal is known to end before a sequence number. False also if only reading the
 * segment would tell.
 */
export function endsBefore({ segment, bytes, checkpoints }: JournalTail, sequence: number): boolean {
  // A seal that covers more bytes than the segment has is damage. Reading the segment reports it.
  if (checkpoints.some((known) => known.bytes > bytes)) return false
  const records = bytes <= segment.header.bytes ? 0 : checkpoints.find((known) => known.bytes === bytes)?.records
  return records !== undefined && sequence >= segment.firstSequence + records
}

/**
 * The damage if a segment holds fewer bytes than are known to have been in it, or than were read.
 */
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

/** The damage if a sealed segment ends in the middle of a line. */
export function unendedLine(path: string, reader: SegmentReader<unknown>): MiniStoreError {
  const problem = `it is sealed, but its last line, at offset ${reader.bytes}, has no line feed`
  return damaged(path, reader.segment.name, problem, { sequence: reader.nextSequence })
}

/** The damage if the checksum in the next header does not match the bytes of the sealed segment. */
export function changedSinceSealed(path: string, reader: SegmentReader<unknown>): MiniStoreError {
  return damaged(path, reader.segment.name, 'it has changed since it was sealed (wrong checksum)')
}

/** The damage if a segment does not begin with the sequence number after the previous segment. */
export function notNext(path: string, next: Segment, reader: SegmentReader<unknown>): MiniStoreError {
  const problem = `it begins with sequence ${next.firstSequence}, expected ${reader.nextSequence}`
  return damaged(path, next.name, problem, { sequence: next.firstSequence })
}

/** The damage if all segments of a journal were deleted. `last` is the newest known segment. */
export function deleted(path: string, last: Segment): MiniStoreError {
  return damaged(path, last.name, 'the journal was deleted while it was being read')
}

/** The damage if a segment that was read, or was to be read, no longer belongs to the journal. */
export function replaced(path: string, known: Segment, { follow }: { readonly follow: boolean }): MiniStoreError {
  const problem = `the journal was replaced by another while it was being ${follow ? 'followed' : 'read'}`
  return damaged(path, known.name, problem)
}

/** Whether a segment left the journal in a way other than deletion of the oldest segments. */
export function isReplaced({ segments }: JournalView, known: Segment): boolean {
  const [first] = segments
  if (first === undefined || first.firstSequence > known.firstSequence) return false
  return !segments.some((segment) => isSameSegment(segment, known))
}

/** A segment that was read to its end, and the segment after it at that time. */
export interface LeftSegment {
  readonly segment: Segment
  readonly nextSequence: number
  readonly crc32: number
  readonly next: Segment | undefined
}

/**
 * Whether a segment continues the one before it: it begins with the next record, and the `prev` in
 * its header is the checksum of the bytes read. A header of version 0.1 has no `prev`.
 */
export function goesOn(segment: Segment, left: LeftSegment): boolean {
  // This pair was compared, and any damage reported, when the segment before it was left.
  if (left.next !== undefined && isSameSegment(segment, left.next)) return true
  const { firstSequence, header } = segment
  if (firstSequence !== left.nextSequence) return false
  return header.previousCrc32 === undefined ? header.sequence === undefined : header.previousCrc32 === left.crc32
}

/**
 * The error for a record that retention or truncation has deleted. `first` is the oldest segment.
 */
export function gone(path: string, wanted: number, first: Segment): MiniStoreError {
  return new MiniStoreError(
    'ERR_MINISTORE_SEQUENCE_GONE',
    `Record ${wanted} was removed by retention or truncation; the first there is has sequence ${first.firstSequence}`,
    { path, sequence: wanted },
  )
}
