import { resolve as absolute } from 'node:path'
import { clearTimeout, setTimeout } from 'node:timers'

import { settledOrAborted, throwIfAborted } from '../async.ts'
import { foreignJournal, hasCode, messageOf } from '../errors.ts'
import { ifPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { findHolder, isSameName } from '../fs/lock.ts'
import { filePath } from '../options.ts'
import { type Checkpoint, idOf, isSameCheckpoint, JournalFiles, readSeal } from './format.ts'
import { missingActiveDamage, scanSegment } from './scan.ts'
import {
  findSegments, inspectActive, isSameSegment, type JournalView, locateJournal, type ReportDamage, retryWhileMoving,
  type JournalTail, type Segment, type SegmentFile, throwDamage, type UnfinishedFile,
} from './segments.ts'
import { JournalWriter } from './writer.ts'

/**
 * How many times in a row the same damage must be found before it is reported. A writer may move
 * files while they are inspected, which can look like damage.
 */
const sameFindings = 3

/**
 * Shows readers how a journal stands, and tells them when it changes. Takes no lock and changes
 * nothing.
 *
 * The views of an open store are those of its writer, so readers see no unacknowledged record and
 * nothing is polled. Readers that have only a path get their views from the disk, unless the
 * journal is open for writing in this thread: then its writer is asked.
 */
export class JournalViews {
  /** Absolute path of the journal. */
  readonly path: string
  readonly #fs: FileSystem
  readonly #owner: JournalWriter | undefined
  #files: JournalFiles
  #isLocated = false
  /** The writer last found in this thread, if there is no owner. */
  #writer: JournalWriter | undefined
  /** Identity of the journal, once it is known. */
  #id: string | undefined
  readonly #pollIntervalMs: number
  readonly #reported = new Set<string>()
  /**
   * The file that had the active name when a view was taken, even if it was no whole segment. If
   * the file has changed since, the journal may have changed too.
   */
  readonly #activeFiles = new WeakMap<JournalView, SegmentFile | UnfinishedFile | undefined>()
  #stopWatching: (() => void) | undefined
  #onHint: (() => void) | undefined

  /**
   * @param options.owner The writer of the open store that the readers belong to.
   * @param options.id The identity that the journal must have, if it is known.
   * @throws {TypeError} if the path is invalid.
   */
  constructor(
    fs: FileSystem,
    path: string | URL,
    options: { readonly owner?: JournalWriter; readonly pollIntervalMs?: number; readonly id?: string | undefined } = {},
  ) {
    this.#fs = fs
    this.#files = new JournalFiles(absolute(filePath(path)))
    this.path = this.#files.path
    this.#owner = options.owner
    this.#id = options.id ?? options.owner?.id
    this.#pollIntervalMs = options.pollIntervalMs ?? 100
  }

  /**
   * Resolves with the current state of the journal.
   *
   * If the owner is closed or poisoned, the segments come from the disk, because their names may
   * have changed. The end stays that of the owner, because records that another writer appends do
   * not belong to its store.
   *
   * @param options.since An earlier view. Its sealed segments may be reused, even if they no longer
   *   exist.
   * @param options.report Receives damage to whole segments, each damage once. Without it, the
   *   first damage is thrown.
   * @throws {MiniStoreError} `ERR_MINISTORE_FOREIGN_JOURNAL` if an earlier view was of a journal with
   *   another identity. A journal whose identity appears or is missing may be the same: programs of
   *   format versions below 0.3 write none.
   */
  async current(options: ViewOptions = {}): Promise<JournalView> {
    const view = this.known ?? (await this.#current(options))
    const id = idOf(view.segments)
    if (id !== undefined && id !== (this.#id ??= id)) {
      const message = `${this.path} was replaced by another journal: its id was ${this.#id} and is now ${id}`
      throw foreignJournal(message, this.path)
    }
    return view
  }

  /** The current view, if the owner can tell it at once. */
  get known(): JournalView | undefined {
    const owner = this.#owner
    return owner !== undefined && owner.namesSettled() === undefined && owner.isViewCurrent ? owner.view() : undefined
  }

  async #current(options: ViewOptions): Promise<JournalView> {
    const owner = this.#owner
    if (owner === undefined) return this.#fromDisk(options)
    await owner.namesSettled()
    if (owner.isViewCurrent) return owner.view()
    const { segments } = await this.#fromDisk({ report: options.report })
    return { segments, tail: owner.view().tail }
  }

  /**
   * Resolves with `true` when the journal may have changed since the view, and with `false` if it
   * will never change again. Rejects with the signal's reason if the signal is aborted.
   *
   * @param options.isRestless Whether to resolve after some time even without a change. Needed if
   *   the last line was incomplete, because a line of the same length may replace it.
   */
  changedSince(view: JournalView, wait: { readonly signal: AbortSignal; readonly isRestless: boolean }): Promise<boolean> {
    return this.#owner === undefined ? this.#changedOnDisk(view, wait) : changedByOwner(this.#owner, view, wait.signal)
  }

  async #changedOnDisk(view: JournalView, { signal, isRestless }: Parameters<JournalViews['changedSince']>[1]): Promise<boolean> {
    for (let isFirst = true; ; isFirst = false) {
      const writer = await this.#liveWriter()
      const hint = this.#hint()
      if (await this.#differs(view, writer)) return true
      if (isRestless && !isFirst) return true
      throwIfAborted(signal)
      if (writer === undefined) await this.#hintOrPoll(hint, signal)
      else await writer.changed(signal)
    }
  }

  /** Calls back at the next change of the owner. */
  onceChanged(onChange: () => void): void {
    this.#owner?.onceChanged(onChange)
  }

  /** Takes back a call of {@link onceChanged}. */
  forget(onChange: () => void): void {
    this.#owner?.forget(onChange)
  }

  /** Stops the directory watch. */
  close(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
  }

  /**
   * Returns up to `most` bytes that the writer in this thread has just acknowledged, which no reader
   * may change. Undefined if it no longer has them.
   */
  readRecent(segment: Segment, position: number, most: number): Buffer | undefined {
    return (this.#owner ?? this.#writer)?.recent.read(segment, position, most)
  }

  async #fromDisk(options: ViewOptions): Promise<JournalView> {
    const { since, report } = options
    if (!this.#isLocated) {
      this.#files = await locateJournal(this.#fs, this.path)
      this.#isLocated = true
    }
    const writer = await this.#liveWriter()
    if (writer !== undefined) {
      await writer.namesSettled()
      return writer.view()
    }
    const grown = since === undefined ? undefined : await this.#grown(since)
    if (grown !== undefined) return grown
    const reportOnce = report === undefined ? throwDamage : this.#once(report)
    let same = 0
    let last = ''
    const view = await retryWhileMoving(async () => {
      try {
        return await this.#inspect(throwDamage)
      } catch (error) {
        if (!hasCode(error, 'ENOENT', 'ERR_MINISTORE_CORRUPT')) throw error
        same = messageOf(error) === last ? same + 1 : 1
        last = messageOf(error)
        return same < sameFindings ? undefined : this.#inspect(reportOnce)
      }
    })
    return view ?? this.#inspect(reportOnce)
  }

  async #hintOrPoll(hint: Promise<void>, signal: AbortSignal): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    // The timer keeps the process alive during the wait.
    const poll = new Promise<void>((resolve) => (timer = setTimeout(resolve, this.#pollIntervalMs)))
    try {
      await settledOrAborted(Promise.race([hint, poll]), signal)
    } finally {
      clearTimeout(timer)
    }
  }

  async #inspect(report: ReportDamage): Promise<JournalView> {
    const fs = this.#fs
    const files = this.#files
    // The seal is used only if it is the same before and after the active segment is inspected.
    // Otherwise it may belong to another segment.
    const before = await readSeal(fs, files.seal)
    const active = await inspectActive(fs, files, report)
    const after = await readSeal(fs, files.seal)
    const seal = before !== undefined && after !== undefined && isSameCheckpoint(before, after) ? after : undefined
    const { segments } = await findSegments(fs, files, active, report)
    const last = segments.at(-1)
    if (seal !== undefined && (active === undefined || !('header' in active))) {
      const lastSealed = last && { atSeal: await this.#checkpointAt(last, seal.bytes) }
      const damage = missingActiveDamage(files, seal, lastSealed)
      if (damage !== undefined) report(damage)
    }
    const checkpoints = sealOf(segments, seal)
    const view = { segments, tail: last && { segment: last, bytes: last.bytes, checkpoints, isAcknowledged: false } }
    this.#activeFiles.set(view, active)
    return view
  }

  async #checkpointAt(segment: Segment, bytes: number): Promise<Checkpoint | undefined> {
    const file = await this.#fs.open(segment.path, 'read')
    try {
      return (await scanSegment(file, { end: segment.bytes, checkpoint: bytes })).atCheckpoint
    } finally {
      await file.close()
    }
  }

  /**
   * The previous view with the new size of its active segment. Undefined if anything else may have
   * changed. So an append does not cost an inspection of all segments.
   */
  async #grown(previous: JournalView): Promise<JournalView | undefined> {
    const { tail } = previous
    if (tail === undefined || tail.isAcknowledged || tail.segment.number !== undefined) return undefined
    const active = await inspectActive(this.#fs, this.#files, () => {})
    if (active === undefined || !('header' in active) || !isSameSegment(active, tail.segment)) return undefined
    const view = { segments: previous.segments, tail: { ...tail, bytes: active.bytes, checkpoints: [] } }
    this.#activeFiles.set(view, active)
    return view
  }

  async #differs(view: JournalView, writer: JournalWriter | undefined): Promise<boolean> {
    if (writer !== undefined) return !writer.isAt(view.tail)
    if (view.tail?.isAcknowledged === true) return true
    const stat = await ifPresent(this.#fs.stat(this.#files.path))
    const seen = this.#activeFiles.get(view)
    if (stat === undefined || seen === undefined) return stat !== seen
    const isSame = stat.inode === seen.inode && stat.size === seen.bytes + seen.padding && stat.changedMs === seen.changedMs
    // A write into the padding changes no size, and two of them may have one time of change.
    return !isSame || (seen.padding > 0 && (await this.#isOverwritten(seen.bytes)))
  }

  /** Whether data is in the active segment where padding was. */
  async #isOverwritten(position: number): Promise<boolean> {
    const file = await ifPresent(this.#fs.open(this.#files.path, 'read'))
    if (file === undefined) return true
    try {
      const byte = Buffer.alloc(1)
      return (await file.read(byte, position)) === 0 || byte[0] !== 0
    } finally {
      await file.close()
    }
  }

  async #liveWriter(): Promise<JournalWriter | undefined> {
    const holder = await findHolder(this.#fs, [this.#files.lock, this.#files.path])
    const writer = holder !== undefined && 'writer' in holder ? holder.writer : undefined
    if (!(writer instanceof JournalWriter && writer.isViewCurrent)) return undefined
    // If the files were moved while the writer has them open, the names in its view are wrong.
    if (!(await isSameName(this.#fs, writer.files.path, this.#files.path))) return undefined
    return (this.#writer = writer)
  }

  /** Resolves when the directory watch next reports a change. */
  #hint(): Promise<void> {
    this.#stopWatching ??= this.#fs.watch(this.#files.directory, () => this.#onHint?.())
    return new Promise((resolve) => {
      this.#onHint = resolve
    })
  }

  #once(report: ReportDamage): ReportDamage {
    return (damage) => {
      if (this.#reported.has(damage.message)) return
      this.#reported.add(damage.message)
      report(damage)
    }
  }
}

interface ViewOptions {
  readonly since?: JournalView | undefined
  readonly report?: ReportDamage | undefined
}

/** Like {@link JournalViews.changedSince}. Resolves with `false` once the writer is closed. */
async function changedByOwner(owner: JournalWriter, { tail }: JournalView, signal: AbortSignal): Promise<boolean> {
  while (owner.isAt(tail)) {
    owner.assertNotPoisoned()
    if (owner.isClosed) return false
    await owner.changed(signal)
  }
  return true
}

/**
 * The seal as a checkpoint of the last segment, if that is the active one.
 *
 * The seal is not used if the active segment has no sequence number in its header and is not the
 * first segment. Such a segment was begun by a program that does not know seals, so the seal may
 * belong to an earlier segment.
 */
function sealOf(segments: readonly Segment[], seal: Checkpoint | undefined): Checkpoint[] {
  const last = segments.at(-1)
  const isForeign = segments.length > 1 && last?.header.sequence === undefined
  return seal === undefined || isForeign || last?.number !== undefined ? [] : [seal]
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
 * The end of a replay in a new view. It is the given end, unless the header of its segment was
 * replaced to give an old journal its identity: that segment had no records.
 */
export function identified(end: JournalTail, { segments }: JournalView): JournalTail {
  const { segment: { header, firstSequence }, bytes } = end
  if (bytes > header.bytes || header.id !== undefined) return end
  const now = segments.find((segment) => segment.firstSequence === firstSequence)
  if (now?.header.id === undefined) return end
  // A header of version 0.1 has no checksum.
  const isSame = header.sequence === undefined || now.header.previousCrc32 === header.previousCrc32
  return isSame ? { ...end, segment: now, bytes: now.header.bytes, checkpoints: [] } : end
}

/** Whether a segment left the journal in a way other than deletion of the oldest segments. */
export function isReplaced({ segments }: JournalView, known: Segment): boolean {
  const [first] = segments
  if (first === undefined || first.firstSequence > known.firstSequence) return false
  return indexOfSegment(segments, known) === -1
}

/**
 * The index of the segment that holds a record or, if it is not written yet, will hold it: the last
 * one that begins with this sequence number or a lower one. -1 if the record was deleted.
 *
 * @param isOrdered Whether the first sequence numbers never fall. If not, all segments are searched.
 */
export function indexAt(segments: readonly Segment[], sequence: number, isOrdered = true): number {
  if (!isOrdered) return segments.findLastIndex(({ firstSequence }) => firstSequence <= sequence)
  let low = 0
  let high = segments.length
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    if ((segments[middle] as Segment).firstSequence <= sequence) low = middle + 1
    else high = middle
  }
  return low - 1
}

/** The index of a segment in a view, which may show it under another name. -1 if it is not there. */
export function indexOfSegment(segments: readonly Segment[], known: Segment): number {
  const likely = indexAt(segments, known.firstSequence)
  const found = segments[likely]
  if (found !== undefined && isSameSegment(found, known)) return likely
  // Empty segments of version 0.1 begin with the same number as the next one.
  return segments.findIndex((segment) => isSameSegment(segment, known))
}

/** One segment of an open store, at the moment it was described. */
export interface SegmentInfo {
  /** Path of the file. */
  readonly path: string
  /** Whether the segment is complete. Only the active segment is not. */
  readonly isSealed: boolean
  /** Sequence number of its first record, or the one that this record will have. */
  readonly firstSequence: number
  /** Sequence number of its last acknowledged record; `firstSequence - 1` while it is empty. */
  readonly lastSequence: number
  /** Size of the file in bytes, header included, up to the last acknowledged record. */
  readonly bytes: number
  /** Version of the format, from its header. */
  readonly version: string
}

/** Describes the segments of a view for `MiniStore.segments`. */
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
