import { resolve as absolute } from 'node:path'
import { clearTimeout, setTimeout } from 'node:timers'
import { setTimeout as delay } from 'node:timers/promises'

import { settledOrAborted, throwIfAborted } from '../async.ts'
import { hasCode, messageOf } from '../errors.ts'
import type { FileStat, FileSystem } from '../fs/file-system.ts'
import { findHolder, isSameName } from '../fs/lock.ts'
import { filePath } from '../options.ts'
import { JournalFiles, readSeal, samePrefix, type SegmentPrefix } from './format.ts'
import { locateJournal } from './locate.ts'
import { missingActiveDamage, scanSegment } from './scan.ts'
import {
  inspectActive, isSameSegment, type JournalSource, type JournalView, type ReportDamage, type Segment,
  type SegmentFile, surveySegments, throwDamage, type UnfinishedFile,
} from './segments.ts'
import { JournalWriter } from './writer.ts'

/**
 * Number of surveys in a row that must find the same damage before it is reported. A writer may
 * move files during a survey, which can look like damage.
 */
const sameLooks = 3

/**
 * A journal as its files show it, for readers that have only its path. Takes no lock and changes
 * nothing.
 *
 * If the journal is open for writing in this thread, its writer is asked instead, so that readers
 * see no unacknowledged record.
 */
export class DiskSource implements JournalSource {
  readonly path: string
  readonly #fs: FileSystem
  #files: JournalFiles
  #isLocated = false
  readonly #pollIntervalMs: number
  readonly #reported = new Set<string>()
  /**
   * The file that had the active name when a view was taken, even if it was no whole segment. If
   * the file has changed since, the journal may have changed too.
   */
  readonly #activeFiles = new WeakMap<JournalView, SegmentFile | UnfinishedFile | undefined>()
  #stopWatching: (() => void) | undefined
  #onHint: (() => void) | undefined

  /** @throws {TypeError} if the path is invalid. */
  constructor(fs: FileSystem, path: string, options: { readonly pollIntervalMs?: number } = {}) {
    this.#fs = fs
    this.#files = new JournalFiles(absolute(filePath(path)))
    this.path = this.#files.path
    this.#pollIntervalMs = options.pollIntervalMs ?? 100
  }

  async look(options: Parameters<JournalSource['look']>[0] = {}): Promise<JournalView> {
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
    const grown = since === undefined ? undefined : await this.#lookAtGrowth(since)
    if (grown !== undefined) return grown
    for (let same = 1, last = ''; ; ) {
      try {
        return await this.#survey(throwDamage)
      } catch (error) {
        const mayBeMoving = hasCode(error, 'ENOENT') || isCorruption(error)
        if (!mayBeMoving) throw error
        same = messageOf(error) === last ? same + 1 : 1
        last = messageOf(error)
        if (same === sameLooks) return this.#survey(report === undefined ? throwDamage : this.#once(report))
        await delay(1)
      }
    }
  }

  async changedSince(
    view: JournalView,
    { signal, isRestless }: { readonly signal: AbortSignal; readonly isRestless: boolean },
  ): Promise<boolean> {
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

  close(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
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

  async #survey(report: ReportDamage): Promise<JournalView> {
    const fs = this.#fs
    const files = this.#files
    // The seal is used only if it is the same before and after the active segment is inspected.
    // Otherwise it may belong to another segment.
    const before = await readSeal(fs, files.seal)
    const active = await inspectActive(fs, files, report)
    const after = await readSeal(fs, files.seal)
    const seal = before !== undefined && after !== undefined && samePrefix(before, after) ? after : undefined
    const { segments } = await surveySegments(fs, files, active, report)
    const last = segments.at(-1)
    if (active === undefined || !('header' in active)) await this.#checkMissing(seal, last, report)
    const view = { segments, tail: last && { segment: last, bytes: last.bytes, checkpoints: sealOf(segments, seal), isAcknowledged: false } }
    this.#activeFiles.set(view, active)
    return view
  }

  async #checkMissing(seal: SegmentPrefix | undefined, last: Segment | undefined, report: ReportDamage): Promise<void> {
    if (seal === undefined) return
    const lastSealed = last === undefined ? undefined : { atSeal: await this.#prefixOf(last, seal.bytes) }
    const damage = missingActiveDamage(this.#files, seal, lastSealed)
    if (damage !== undefined) report(damage)
  }

  async #prefixOf(segment: Segment, checkpoint: number): Promise<SegmentPrefix | undefined> {
    const file = await this.#fs.open(segment.path, 'read')
    try {
      return (await scanSegment(file, { end: segment.bytes, checkpoint })).atCheckpoint
    } finally {
      await file.close()
    }
  }

  /**
   * The previous view with the new size of its active segment. Undefined if anything else may have
   * changed. This avoids a survey for every append.
   */
  async #lookAtGrowth(previous: JournalView): Promise<JournalView | undefined> {
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
    const stat = await this.#statActive()
    const seen = this.#activeFiles.get(view)
    return stat?.inode !== seen?.inode || stat?.size !== seen?.bytes || stat?.changedMs !== seen?.changedMs
  }

  async #statActive(): Promise<FileStat | undefined> {
    try {
      return await this.#fs.stat(this.#files.path)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined
      throw error
    }
  }

  async #liveWriter(): Promise<JournalWriter | undefined> {
    const holder = await findHolder(this.#fs, [this.#files.lock, this.#files.path])
    const writer = holder !== undefined && 'writer' in holder ? holder.writer : undefined
    if (!(writer instanceof JournalWriter && writer.isSound)) return undefined
    // If the files were moved while the writer has them open, the names in its view are wrong.
    return (await isSameName(this.#fs, writer.files.path, this.#files.path)) ? writer : undefined
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

/**
 * The seal as a checkpoint of the last segment, if that is the active one.
 *
 * The seal is not used if the active segment has no sequence number in its header and is not the
 * first segment. Such a segment was begun by a program that does not know seals, so the seal may
 * belong to an earlier segment.
 */
function sealOf(segments: readonly Segment[], seal: SegmentPrefix | undefined): SegmentPrefix[] {
  const last = segments.at(-1)
  const isForeign = segments.length > 1 && last?.header.sequence === undefined
  return seal === undefined || isForeign || last?.number !== undefined ? [] : [seal]
}

function isCorruption(error: unknown): boolean {
  return hasCode(error, 'ERR_MINISTORE_CORRUPT')
}

/**
 * A journal as its writer in this thread knows it. Nothing is polled, and no unacknowledged record
 * is seen.
 */
export class LiveSource implements JournalSource {
  readonly #writer: JournalWriter
  readonly #disk: DiskSource

  /** @param disk the source for a stream that is still read after its store was closed. */
  constructor(writer: JournalWriter, disk: DiskSource) {
    this.#writer = writer
    this.#disk = disk
  }

  get path(): string {
    return this.#writer.files.path
  }

  /**
   * Resolves with the view of the writer once no rename is under way.
   *
   * If the writer is closed or poisoned, the segments come from the disk, because their names may
   * have changed. The end stays that of the writer, because records that another writer appends do
   * not belong to this store.
   */
  async look(options: Parameters<JournalSource['look']>[0] = {}): Promise<JournalView> {
    await this.#writer.namesSettled()
    if (this.#writer.isSound) return this.#writer.view()
    const { segments } = await this.#disk.look({ report: options.report })
    return { segments, tail: this.#writer.view().tail }
  }

  async changedSince(view: JournalView, { signal }: { readonly signal: AbortSignal }): Promise<boolean> {
    while (this.#writer.isAt(view.tail)) {
      this.#writer.assertSound()
      if (this.#writer.isClosed) return false
      await this.#writer.changed(signal)
    }
    return true
  }

  close(): void {
    this.#disk.close()
  }
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
