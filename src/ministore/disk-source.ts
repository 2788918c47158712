import { resolve as absolute } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { MiniStoreError } from '../errors.ts'
import { type FileStat, type FileSystem, isNotFound } from '../fs/file-system.ts'
import { findHolder } from '../fs/lock.ts'
import { filePath } from '../options.ts'
import { JournalFiles } from './journal-files.ts'
import type { JournalSource, JournalView } from './journal-source.ts'
import { JournalWriter } from './journal-writer.ts'
import { settledOrAborted } from './live-source.ts'
import { locateJournal } from './locate.ts'
import { readSeal } from './seal.ts'
import { missingActiveDamage } from './seal-check.ts'
import { samePrefix, type SegmentPrefix } from './segment-prefix.ts'
import { scanSegment } from './segment-scan.ts'
import {
  inspectActive, isSameSegment, type ReportDamage, type Segment, surveySegments, throwDamage,
} from './segments.ts'

/** A writer moves files while we look; what looks like damage must look so this often in a row. */
const maxLooks = 20

/**
 * A journal as its files show it: for readers that have only its path. Takes no lock and changes nothing.
 *
 * When the journal is open in this thread, its writer is asked instead, so that no unacknowledged record is seen.
 */
export class DiskSource implements JournalSource {
  readonly path: string
  readonly #fs: FileSystem
  #files: JournalFiles
  #isLocated = false
  readonly #pollIntervalMs: number
  readonly #report: ReportDamage
  readonly #reported = new Set<string>()
  #stopWatching: (() => void) | undefined
  #onHint: (() => void) | undefined

  /**
   * @param options.salvage is told of damage to segments as such; without it they are errors.
   * @throws {TypeError} unless the path is one.
   */
  constructor(
    fs: FileSystem,
    path: string,
    options: { readonly pollIntervalMs: number; readonly salvage: ReportDamage | undefined },
  ) {
    this.#fs = fs
    this.#files = new JournalFiles(absolute(filePath(path)))
    this.path = this.#files.path
    this.#pollIntervalMs = options.pollIntervalMs
    const { salvage } = options
    this.#report = salvage === undefined ? throwDamage : (damage) => this.#reportOnce(damage, salvage)
  }

  async look(since?: JournalView): Promise<JournalView> {
    if (!this.#isLocated) {
      this.#files = await locateJournal(this.#fs, this.path)
      this.#isLocated = true
    }
    const writer = await this.#liveWriter()
    if (writer !== undefined) return writer.view()
    const grown = since === undefined ? undefined : await this.#lookAtGrowth(since)
    if (grown !== undefined) return grown
    for (let looks = 1; ; looks++) {
      try {
        return await this.#survey(throwDamage)
      } catch (error) {
        const mayBeMoving = isNotFound(error) || isCorruption(error)
        if (!mayBeMoving) throw error
        if (looks < maxLooks) continue
        return this.#survey(this.#report)
      }
    }
  }

  async changedSince(view: JournalView, signal: AbortSignal): Promise<boolean> {
    for (;;) {
      const writer = await this.#liveWriter()
      const hint = this.#hint()
      if (await this.#differs(view, writer)) return true
      signal.throwIfAborted()
      if (writer !== undefined) {
        await settledOrAborted(writer.changed(), signal)
      } else {
        // Kept from being unhandled when the hint is first; its timer must keep the process alive until then.
        const timer = new AbortController()
        const poll = delay(this.#pollIntervalMs, undefined, { signal: timer.signal }).catch(() => {})
        try {
          await settledOrAborted(Promise.race([hint, poll]), signal)
        } finally {
          timer.abort()
        }
      }
    }
  }

  close(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
  }

  async #survey(report: ReportDamage): Promise<JournalView> {
    const fs = this.#fs
    const files = this.#files
    // The seal counts only when it is the same before and after: then it belongs to the active segment that was seen.
    const before = await readSeal(fs, files.seal)
    const active = await inspectActive(fs, files, report)
    const after = await readSeal(fs, files.seal)
    const seal = before !== undefined && after !== undefined && samePrefix(before, after) ? after : undefined
    const { segments } = await surveySegments(fs, files, active, report)
    const last = segments.at(-1)
    const isActive = last !== undefined && last.number === undefined
    if (!isActive && seal !== undefined) await this.#checkMissing(seal, last, report)
    return {
      segments,
      end: last === undefined ? undefined : { firstSequence: last.firstSequence, bytes: last.bytes },
      checkpoints: isActive && seal !== undefined ? [seal] : [],
      activeFile: active,
      isLive: false,
    }
  }

  async #checkMissing(seal: SegmentPrefix, last: Segment | undefined, report: ReportDamage): Promise<void> {
    const prefix = last === undefined ? undefined : await this.#prefixOf(last, seal.bytes)
    const damage = missingActiveDamage(this.#files, seal, prefix)
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

  /** The view with more of its active segment, when that is all that has changed: spares a survey for every append. */
  async #lookAtGrowth(previous: JournalView): Promise<JournalView | undefined> {
    const last = previous.segments.at(-1)
    if (previous.isLive || last === undefined || last.number !== undefined) return undefined
    const active = await inspectActive(this.#fs, this.#files, () => {})
    if (active === undefined || !('header' in active) || !isSameSegment(active, last)) return undefined
    const end = { firstSequence: last.firstSequence, bytes: active.bytes }
    return { ...previous, end, checkpoints: [], activeFile: active }
  }

  async #differs(view: JournalView, writer: JournalWriter | undefined): Promise<boolean> {
    if (writer !== undefined) {
      const { end } = writer.view()
      return end?.firstSequence !== view.end?.firstSequence || end?.bytes !== view.end?.bytes
    }
    if (view.isLive) return true
    const stat = await this.#statActive()
    return stat?.inode !== view.activeFile?.inode || stat?.size !== view.activeFile?.bytes
  }

  async #statActive(): Promise<FileStat | undefined> {
    try {
      return await this.#fs.stat(this.#files.path)
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  async #liveWriter(): Promise<JournalWriter | undefined> {
    const holder = await findHolder(this.#fs, this.#files.lock)
    const writer = holder !== undefined && 'writer' in holder ? holder.writer : undefined
    return writer instanceof JournalWriter && !writer.isClosed ? writer : undefined
  }

  /** Resolves at the next hint that the directory has changed. */
  #hint(): Promise<void> {
    this.#stopWatching ??= this.#fs.watch(this.#files.directory, () => this.#onHint?.())
    return new Promise((resolve) => {
      this.#onHint = resolve
    })
  }

  #reportOnce(damage: MiniStoreError, salvage: ReportDamage): void {
    if (this.#reported.has(damage.message)) return
    this.#reported.add(damage.message)
    salvage(damage)
  }
}

function isCorruption(error: unknown): boolean {
  return error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_CORRUPT'
}
