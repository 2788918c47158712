import { ioError, isInstance, MiniStoreError } from '../errors.ts'
import { removeIfPresent, writeFully } from '../fs/durable.ts'
import { keepBroken, repairTemporary, writeWhole } from '../fs/evidence.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { WriterLock } from '../fs/lock.ts'
import { extendPrefix, headerPrefix, type JournalFiles, samePrefix } from '../ministore/format.ts'
import { accessOf, assertNamesUsable, locateJournal } from '../ministore/locate.ts'
import { recoverJournal } from '../ministore/recovery.ts'
import { planRepair } from './repair-planner.ts'
import { holdJournal, PoisoningError, releaseHeld } from '../ministore/rotation.ts'
import { JournalWriter } from '../ministore/writer.ts'
import {
  type CheckLine, isSound, type PlannedSegment, readLineRuns, refusalOf, type RepairChoice, type RepairPlan,
  upToLine,
} from './repair-plan.ts'

/** What a repair has done. */
export interface RepairResult {
  readonly plan: RepairPlan
  /** Names of the copies of every file that was changed or removed. */
  readonly copies: readonly string[]
}

/**
 * Mends a journal under the writer's lock; undefined when there is no segment file. When the journal is sound
 * nothing is changed.
 *
 * **What a crash leaves.** At every instant each file that the repair found is there, unchanged, or a durable
 * copy of it is, under `<file>.broken` (or `.broken-2` …): all copies are durable before the first change.
 * The changes are steps, each atomic and durable before the next:
 *
 * 1. The seal goes: it speaks of an active segment that changes.
 * 2. Segments go, newest first, so that what is left of a journal that is being cut is contiguous.
 * 3. Segments are replaced, oldest first. What a later run would make of a half-replaced journal is the same,
 *    since it takes the same lines in the same order and counts from the same first number.
 * 4. Names get numbers without a gap, lowest first, each into a name that is free.
 * 5. Recovery, as on every open, makes an active segment if there is none, and seals it.
 *
 * So a repair that was cut short is run again with the same choice.
 *
 * @param options.confirm is given the plan before anything is changed; what it throws ends the repair.
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED`, `…_LOCK_UNAVAILABLE`, `…_UNSUPPORTED_VERSION`, `…_NAME_TAKEN`, `…_IO`;
 *   `…_CORRUPT` for what only a person can decide.
 * @throws {RangeError} for a plan that must be refused, see `refusalOf`.
 */
export async function repairJournal(
  given: FileSystem,
  path: string,
  options: {
    readonly choice: RepairChoice
    readonly check?: CheckLine | undefined
    readonly confirm?: ((plan: RepairPlan) => void) | undefined
    readonly signal?: AbortSignal | undefined
  },
): Promise<RepairResult | undefined> {
  const { choice, check, confirm, signal } = options
  const files = await locateJournal(given, path)
  await assertNamesUsable(given, files)
  const access = await accessOf(given, files)
  const lock = await WriterLock.acquire(given, files.lock, { kernel: true, holder: {}, journalPath: files.path, access })
  const fs = lock.fileSystem
  try {
    const plan = await planRepair(fs, files, choice, { check, signal })
    if (plan === undefined) return undefined
    confirm?.(plan)
    const refusal = refusalOf(plan)
    if (refusal !== undefined) throw new RangeError(refusal.message)
    if (isSound(plan)) return { plan, copies: [] }
    try {
      const held = await holdJournal(fs, files, lock)
      let copies: string[]
      try {
        copies = await keepAll(fs, files, plan, signal)
        await change(fs, files, plan)
      } finally {
        await releaseHeld(fs, files, lock, held)
      }
      await recover(files, lock)
      return { plan, copies }
    } catch (error) {
      if (signal?.aborted === true && error === signal.reason) throw error
      throw ioError('repair the journal', isInstance(error, PoisoningError) ? error.cause : error, {
        path: files.path,
      })
    }
  } finally {
    await lock.release()
  }
}

async function keepAll(
  fs: FileSystem,
  files: JournalFiles,
  plan: RepairPlan,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const changed = plan.segments.filter(({ isChanged }) => isChanged).map(({ source }) => source)
  const seal = plan.removesSeal ? [`${files.name}.seal`] : []
  const copies: string[] = []
  for (const name of [...plan.removals, ...changed, ...seal]) {
    signal?.throwIfAborted()
    copies.push(await keepBroken(fs, files, name))
  }
  return copies
}

async function change(fs: FileSystem, files: JournalFiles, plan: RepairPlan): Promise<void> {
  if (plan.removesSeal) await remove(fs, files, files.seal)
  for (const name of plan.removals.toReversed()) await remove(fs, files, files.at(name))
  for (const segment of plan.segments) if (segment.isChanged) await rewrite(fs, files, segment, plan.check)
  for (const { source, target } of plan.segments) {
    if (source === target) continue
    await fs.rename(files.at(source), files.at(target))
    await fs.syncDirectory(files.directory)
  }
}

async function remove(fs: FileSystem, files: JournalFiles, path: string): Promise<void> {
  await removeIfPresent(fs, path)
  await fs.syncDirectory(files.directory)
}

async function rewrite(
  fs: FileSystem,
  files: JournalFiles,
  segment: PlannedSegment,
  check: CheckLine,
): Promise<void> {
  const { from, end, limit, prefix: planned } = segment
  const source = await fs.open(files.at(segment.source), 'read')
  try {
    const write = async (target: File): Promise<void> => {
      const header = Buffer.from(segment.header)
      await writeFully(target, header, 0)
      let written = headerPrefix(header)
      let lines = 0
      for await (const run of readLineRuns(source, { from, end, check })) {
        const { good, lines: taken } = upToLine(run, limit - lines)
        await writeFully(target, good, written.bytes)
        written = extendPrefix(written, good, taken)
        lines += run.lines + (run.bad === undefined ? 0 : 1)
      }
      // The next header says this checksum already.
      if (samePrefix(written, planned)) return
      throw new MiniStoreError('ERR_MINISTORE_IO', `${segment.source} reads differently than a moment ago`, {
        path: files.path,
      })
    }
    await writeWhole(fs, files, segment.source, { access: await source.stat(), write })
  } finally {
    await source.close()
  }
}

/** As on every open: what is left is made whole, durable and sealed. */
async function recover(files: JournalFiles, lock: WriterLock): Promise<void> {
  await removeIfPresent(lock.fileSystem, repairTemporary(files))
  const journal = await recoverJournal(files, lock)
  const limits = { maxBytesPerSegment: Number.POSITIVE_INFINITY, maxSegments: Number.POSITIVE_INFINITY }
  const writer = new JournalWriter(files, lock, journal, limits)
  await writer.sealOnOpen()
  await writer.close()
}
