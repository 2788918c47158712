import { AsyncResource } from 'node:async_hooks'

import { CallbackError, ignoreOutcome, isThenable, settledOrAborted, tellDamage, throwIfAborted } from '../async.ts'
import { ioError, isInstance, MiniStoreError } from '../errors.ts'
import { ifPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { Batch, ParserOf } from './lines.ts'
import { emptyBatch, type ReadBounds, type ReplayParts, SegmentReader } from './segment-reader.ts'
import { damaged, isSameSegment, type JournalTail, type JournalView, retryWhileMoving, type Segment } from './segments.ts'
import type { StreamSettings } from './settings.ts'
import { endsBefore, identified, indexAt, indexOfSegment, isReplaced, type JournalViews, mayBeTorn } from './view.ts'

/**
 * Reads a journal record by record, or block by block, from segment to segment. Opens nothing
 * before the first {@link advance}.
 *
 * Invariant: the cursor never skips a record silently. It gives the next record, reports damage or
 * ends with an error.
 *
 * A reader takes no lock, so the writer may rename and delete segments at any time. Neither affects
 * the file that the cursor has open. The cursor finds the next segment by sequence number. If a
 * name leads to another file than expected, it takes a new view. If the next record was
 * deleted, it ends with `ERR_MINISTORE_SEQUENCE_GONE`.
 */
export class JournalCursor<T> {
  readonly #views: JournalViews
  readonly #replay: ReplayParts<T>
  readonly #settings: StreamSettings
  /**
   * The asynchronous context in which the stream was created. The codec, the schema and `salvage`
   * run in it, regardless of the context that reads.
   */
  readonly #context = new AsyncResource('ministore.stream')
  readonly #closed = new AbortController()
  /** The last view, used to find the next segment. */
  #view: JournalView | undefined
  /**
   * Where the replay ends: as of the first view or, for a follower, of the last view. It names its
   * segment, because the view may be newer: its checkpoints must not be used for another segment.
   */
  #tail: JournalTail | undefined
  #reader: SegmentReader<T> | undefined
  /** What is known about the segment of the reader. Looked up once a view. */
  #ahead: { readonly next: Segment | undefined; readonly covered: number } | undefined
  /** The segment before the current one, or before the one to be opened next. */
  #left: LeftSegment | undefined
  /** Sequence number of the next record to load. */
  #sequence: number | undefined
  #batch: Batch<T> = emptyBatch
  /** The place of the next record in the batch, and that of the next damage or the end. */
  #index = 0
  #stop = 0
  /** Number of damages of the batch that were raised. */
  #raised = 0
  #isDone = false
  #advancing: Promise<boolean> | undefined
  #closing: Promise<void> | undefined
  /** A block from memory whose records an asynchronous schema checks. */
  #pending: Promise<Batch<T>> | undefined
  #isLoadingRecent = false
  #arrived: (() => void) | undefined

  /**
   * @param view of the journal when the stream was created. Without it, the first {@link advance}
   *   takes one.
   */
  constructor(
    fs: FileSystem,
    views: JournalViews,
    parser: ParserOf<T>,
    settings: StreamSettings,
    view?: JournalView,
  ) {
    this.#views = views
    this.#replay = { fs, path: views.path, parser, views, spareBuffers: [], sinceTurn: { bytes: 0 } }
    this.#settings = settings
    this.#view = view
    this.#tail = view?.tail
    this.#sequence = settings.from
  }

  /** Whether a record is loaded, so that {@link take} may be called. */
  get hasRecord(): boolean {
    return this.#index < this.#stop
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
   * Loads what the writer in this thread has just acknowledged, if this cursor follows it and needs
   * no file for that. Returns whether there is a record to take. Call it, and {@link arrival}, only
   * while no `advance` is pending, which does everything else.
   */
  loadRecent(): boolean {
    const view = this.#followed
    const reader = this.#reader as SegmentReader<T>
    if (view === undefined || view.tail?.bytes === reader.bytes) return false
    this.#see(view)
    this.#begin(emptyBatch)
    this.#isLoadingRecent = true
    const batch = this.#context.runInAsyncScope(() => reader.nextRecent(this.#boundsIn(reader)))
    this.#isLoadingRecent = false
    if (isThenable(batch)) ignoreOutcome((this.#pending = batch))
    else if (batch !== undefined) this.#enter(reader, batch)
    return this.hasRecord
  }

  /**
   * Waits for the writer in this thread, if this cursor has read everything that it acknowledged.
   * The promise never rejects. Afterwards there may be something to load, or the cursor is closed.
   */
  arrival(): Promise<void> | undefined {
    const view = this.#followed
    if (view === undefined || view.tail?.bytes !== this.#reader?.bytes) return undefined
    return new Promise((resolve) => {
      this.#arrived = resolve
      this.#views.onceChanged(resolve)
    })
  }

  /** Ends a wait of {@link arrival}. */
  stopWaiting(): void {
    if (this.#arrived === undefined) return
    this.#views.forget(this.#arrived)
    this.#arrived()
    this.#arrived = undefined
  }

  /** The view of the writer in this thread, if it writes to the segment that this cursor follows. */
  get #followed(): JournalView | undefined {
    if (!this.#settings.follow || this.#isDone || this.#closing !== undefined) return undefined
    if (this.#isLoadingRecent || this.#pending !== undefined || this.#index < this.#batch.records.length) return undefined
    const { known } = this.#views
    return known?.tail?.segment === this.#reader?.segment ? known : undefined
  }

  /**
   * Closes the file, after waiting only for a read of it that is already under way. A pending
   * {@link advance} stops every other wait and rejects with the reason.
   */
  close(reason?: unknown): Promise<void> {
    this.#closed.abort(reason)
    this.stopWaiting()
    // A file must not be closed during a read of it.
    this.#closing ??= Promise.resolve(this.#advancing)
      .catch(() => {})
      .then(() => this.#release())
    return this.#closing
  }

  async #advance(): Promise<boolean> {
    try {
      // A codec has asked for the next record while it decodes this one.
      if (this.#isLoadingRecent) await Promise.resolve()
      for (;;) {
        throwIfAborted(this.#closed.signal)
        if (this.hasRecord) return true
        const known = this.#batch.damages[this.#raised]
        if (known !== undefined) {
          this.#index = known.index + 1
          this.#stop = this.#batch.damages[++this.#raised]?.index ?? this.#batch.records.length
          await this.#raise(known.damage)
        } else if (this.#isDone) {
          await this.#release()
          return false
        } else {
          await this.#load()
        }
      }
    } catch (error) {
      // The first error is reported, not one from closing the file.
      await this.#release().catch(() => {})
      this.#isDone = true
      this.#begin(emptyBatch)
      if (this.#closed.signal.aborted) throw this.#closed.signal.reason
      throw isInstance(error, CallbackError) ? error.cause : ioError('read the journal', error, this.#views)
    }
  }

  #begin(batch: Batch<T>): void {
    this.#batch = batch
    this.#index = 0
    this.#raised = 0
    this.#stop = batch.damages[0]?.index ?? batch.records.length
  }

  async #release(): Promise<void> {
    const reader = this.#reader
    this.#reader = undefined
    this.#views.close()
    await reader?.close()
  }

  async #load(): Promise<void> {
    // The records of the last block are released before the next ones take memory.
    this.#begin(emptyBatch)
    const reader = (this.#reader ??= await this.#openSegment())
    if (reader === undefined) return
    const pending = this.#pending
    this.#pending = undefined
    const tail = this.#tailIn(reader)
    const isAtEnd = pending === undefined && tail?.isAcknowledged === true && reader.bytes === tail.bytes
    if (isAtEnd && this.#settings.follow) return this.#waitForMore(this.#view as JournalView)
    const batch = await (pending ?? reader.next(this.#boundsIn(reader)))
    if (batch === undefined) return this.#leave(reader)
    this.#enter(reader, batch)
  }

  #boundsIn(reader: SegmentReader<T>): ReadBounds {
    const tail = this.#tailIn(reader)
    return {
      from: this.#sequence ?? reader.segment.firstSequence,
      to: this.#settings.to ?? Number.POSITIVE_INFINITY,
      end: tail?.bytes ?? Number.POSITIVE_INFINITY,
      mayBeTorn: tail !== undefined && mayBeTorn(tail),
      checkpoints: tail?.checkpoints ?? [],
      covered: this.#aheadOf(reader).covered,
      signal: this.#closed.signal,
    }
  }

  #enter(reader: SegmentReader<T>, batch: Batch<T>): void {
    this.#begin(batch)
    const { to = Number.POSITIVE_INFINITY } = this.#settings
    if (reader.nextSequence > (this.#sequence ?? 0)) this.#sequence = reader.nextSequence
    // If lines were split by damage, the last number is reached before the checksum is compared.
    if (reader.nextSequence > to && reader.bytes >= this.#aheadOf(reader).covered) this.#isDone = true
  }

  #aheadOf(reader: SegmentReader<T>): { readonly next: Segment | undefined; readonly covered: number } {
    return (this.#ahead ??= this.#lookAhead(reader, this.#tailIn(reader)))
  }

  /**
   * Looks up the segment after that of a reader, and how much of the segment a checksum covers which
   * the replay compares: it reads as far as the checksum goes, and does not end before.
   */
  #lookAhead({ segment }: SegmentReader<T>, tail: JournalTail | undefined): { next: Segment | undefined; covered: number } {
    const { to = Number.POSITIVE_INFINITY } = this.#settings
    if (tail !== undefined) {
      const compared = tail.checkpoints.findLast(({ records }) => segment.firstSequence + records - 1 <= to)
      return { next: undefined, covered: compared?.bytes ?? 0 }
    }
    const { segments } = this.#view as JournalView
    const at = indexOfSegment(segments, segment)
    // The view may show no next segment if segments were deleted meanwhile. Then the sequence
    // number finds the next segment, or shows that the record is gone.
    const next = at === -1 ? undefined : segments[at + 1]
    const isCompared = next?.header.previousCrc32 !== undefined && next.firstSequence <= to
    return { next, covered: isCompared ? Number.POSITIVE_INFINITY : 0 }
  }

  /** The end of the replay, if it lies in the segment of this reader. */
  #tailIn(reader: SegmentReader<T>): JournalTail | undefined {
    return this.#tail !== undefined && isSameSegment(this.#tail.segment, reader.segment) ? this.#tail : undefined
  }

  async #refresh(since?: JournalView): Promise<JournalView> {
    const damages: MiniStoreError[] = []
    const report = this.#settings.salvage && ((damage: MiniStoreError): void => void damages.push(damage))
    const view = await this.#views.current({ since, report })
    for (const damage of damages) await this.#raise(damage)
    const seen = this.#view?.segments.at(-1)
    if (seen !== undefined && view.segments.length === 0) {
      await this.#report(seen, 'the journal was deleted while it was being read')
    }
    const end = this.#tail && identified(this.#tail, view)
    if (end !== undefined && isReplaced(view, end.segment)) throw this.#replaced(end.segment)
    this.#tail = this.#settings.follow || end === undefined ? view.tail : end
    this.#view = view
    this.#ahead = undefined
    return view
  }

  /**
   * Opens the segment that holds the next record. Undefined if the replay is done, or if a follower
   * has waited for the first segment of the journal and must try again.
   */
  async #openSegment(): Promise<SegmentReader<T> | undefined> {
    let view = this.#view
    const opened = await retryWhileMoving(async () => {
      throwIfAborted(this.#closed.signal)
      const segment = await this.#nextSegment((view ??= await this.#refresh()))
      if (segment === undefined) return { reader: undefined }
      const reader = await ifPresent(SegmentReader.open(segment, this.#replay))
      view = undefined
      return reader && { reader }
    })
    if (opened !== undefined) return opened.reader
    const { path } = this.#views
    const message = `The segments of ${path} were renamed or deleted at every attempt to open one. Read it again`
    throw new MiniStoreError('ERR_MINISTORE_IO', message, { path })
  }

  /** The segment of a view that holds the next record. Undefined as in {@link #openSegment}. */
  async #nextSegment(view: JournalView): Promise<Segment | undefined> {
    const [first] = view.segments
    if (first === undefined) {
      await this.#waitForMore(view)
      return undefined
    }
    const wanted = (this.#sequence ??= first.firstSequence)
    // Only a damaged journal that is salvaged can be out of order.
    const segment = view.segments[indexAt(view.segments, wanted, this.#settings.salvage === undefined)]
    const end = this.#tail?.segment.firstSequence ?? Number.POSITIVE_INFINITY
    // No file is opened if no record is left to give. The segment may have been deleted by now.
    if (this.#isBeyondRange(wanted) || (segment !== undefined && segment.firstSequence > end)) {
      this.#isDone = true
      return undefined
    }
    const { path } = this.#views
    if (segment === undefined) {
      const message = `Record ${wanted} was removed by retention or truncation; the first record is ${first.firstSequence}`
      throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', message, { path, sequence: wanted })
    }
    const left = this.#left
    if (left !== undefined && wanted === left.nextSequence && !goesOn(segment, left)) throw this.#replaced(left.segment)
    return segment
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
    const { bytes, segment, nextSequence } = reader
    const known = tail.checkpoints.at(-1)?.bytes ?? 0
    if (bytes < known) {
      await this.#report(segment, `it had ${known} bytes of whole lines and now has ${bytes}`, nextSequence)
    } else if (bytes > tail.bytes) {
      const problem = `it was cut to ${tail.bytes} bytes after ${bytes} were read: an append in progress failed`
      await this.#report(segment, problem, nextSequence)
    }
    if (this.#settings.follow) {
      // The writer may roll back half a line and write another in its place, so it is read again.
      const isRestless = reader.hasRest
      reader.forgetRest()
      return this.#waitForMore(this.#view as JournalView, isRestless)
    }
    if (!mayBeTorn(tail) && reader.hasRest) await this.#reportUnended(reader)
    this.#isDone = true
  }

  async #waitForMore(view: JournalView, isRestless = false): Promise<void> {
    const { signal } = this.#closed
    if (!this.#settings.follow || !(await this.#views.changedSince(view, { signal, isRestless }))) {
      this.#isDone = true
      return
    }
    const { known } = this.#views
    // After most appends, the writer in this thread is still in the segment in which it was.
    if (known?.tail?.segment === this.#tail?.segment && known !== undefined) this.#see(known)
    else await this.#refresh(view)
  }

  #see(view: JournalView): void {
    this.#tail = view.tail
    this.#view = view
    this.#ahead = undefined
  }

  /** Leaves a sealed segment, after checking the bytes read against the header of the next one. */
  async #enterNext(reader: SegmentReader<T>): Promise<void> {
    const { segment, nextSequence, crc32 } = reader
    const { next } = this.#aheadOf(reader)
    if (reader.hasRest) await this.#reportUnended(reader)
    const { previousCrc32 = crc32 } = next?.header ?? {}
    if (previousCrc32 !== crc32) await this.#report(segment, 'it has changed since it was sealed (wrong checksum)')
    if (next !== undefined && next.firstSequence !== nextSequence) {
      const { firstSequence } = next
      await this.#report(next, `it begins with sequence ${firstSequence}, expected ${nextSequence}`, firstSequence)
    }
    // The header of a segment without records may have been replaced, to give the journal its
    // identity. The segment of the new header follows the one before.
    const isReplaceable = next === undefined && nextSequence === segment.firstSequence
    if (!isReplaceable) this.#left = { segment, nextSequence, crc32, next }
    this.#reader = undefined
    this.#ahead = undefined
    await reader.close()
    this.#sequence = Math.max(this.#sequence ?? 0, next?.firstSequence ?? nextSequence)
  }

  #reportUnended({ segment, bytes, nextSequence }: SegmentReader<T>): Promise<void> {
    return this.#report(segment, `it is sealed, but its last line, at offset ${bytes}, has no line feed`, nextSequence)
  }

  #report(segment: Segment, problem: string, sequence?: number): Promise<void> {
    return this.#raise(damaged(this.#views.path, segment.name, problem, { sequence }))
  }

  /** Throws the damage or, with `salvage`, reports it and waits for the promise that it returns. */
  async #raise(damage: MiniStoreError): Promise<void> {
    if (this.#settings.salvage === undefined) throw damage
    const telling = tellDamage(this.#settings.salvage, damage)
    if (telling !== undefined) await settledOrAborted(telling, this.#closed.signal)
  }

  /** The error if a segment that was read, or was to be read, no longer belongs to the journal. */
  #replaced(known: Segment): MiniStoreError {
    const problem = `the journal was replaced by another while it was being ${this.#settings.follow ? 'followed' : 'read'}`
    return damaged(this.#views.path, known.name, problem)
  }
}

/** A segment that was read to its end, and the segment after it at that time. */
interface LeftSegment {
  readonly segment: Segment
  readonly nextSequence: number
  readonly crc32: number
  readonly next: Segment | undefined
}

/**
 * Whether a segment continues the one before it: it begins with the next record, and the `prev` in
 * its header is the checksum of the bytes read. A header of version 0.1 has no `prev`.
 */
function goesOn(segment: Segment, left: LeftSegment): boolean {
  // This pair was compared, and any damage reported, when the segment before it was left.
  if (left.next !== undefined && isSameSegment(segment, left.next)) return true
  const { firstSequence, header } = segment
  if (firstSequence !== left.nextSequence) return false
  return header.previousCrc32 === undefined ? header.sequence === undefined : header.previousCrc32 === left.crc32
}
