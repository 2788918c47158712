import { ioError, isInstance, MiniStoreError } from '../errors.ts'
import { copyRange, readRange } from '../fs/bytes.ts'
import { removeIfPresent, renameIntoPlace, writeFully } from '../fs/durable.ts'
import { keepBroken } from '../fs/evidence.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { WriterLock } from '../fs/lock.ts'
import type { JournalFiles } from '../ministore/format.ts'
import { accessOf, assertNamesUsable, locateJournal } from '../ministore/segments.ts'
import { recoverJournal } from '../ministore/recovery.ts'
import { PoisoningError } from '../ministore/active-segment.ts'
import { holdJournal, releaseHeld } from '../ministore/rotation.ts'
import { JournalWriter } from '../ministore/writer.ts'
import { isSound, planRepair, type RepairOptions, type RepairPlan } from './repair-plan.ts'

/** What a repair has done. */
export interface RepairResult {
  readonly plan: RepairPlan
  /** Names of the copies of all files that were changed or removed. */
  readonly copies: readonly string[]
}

/**
 * Repairs a journal under the writer's lock. Undefined if there is no segment file. Changes nothing
 * in a sound journal.
 *
 * **Invariant.** At every instant each file that the repair found exists unchanged, or a durable
 * copy of it exists under `<file>.broken` (or `.broken-2` and so on). All copies are durable before
 * the first change.
 *
 * **What a crash leaves.** The changes are steps. Each is atomic, and durable before the next:
 *
 * 1. The seal is removed, because it describes an active segment that changes.
 * 2. Headers are replaced, newest segment first, so what tells the right number of a segment is
 *    unchanged until its own turn. A new header does not match an older segment that is still to
 *    change, so readers refuse the pair. If the number of the first record is known only from a
 *    segment that step 3 removes, it stands in a header from here on.
 * 3. Segments after the cut are removed, newest first. What is left is a beginning of the journal
 *    without a gap.
 * 4. The last segment is replaced by its beginning.
 * 5. Recovery creates an active segment if there is none, and the seal, as on every open.
 *
 * So an interrupted repair is run again with the same options.
 *
 * @param options.confirm receives the plan before anything is changed. If it throws, the repair
 *   ends.
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if a line would have to be dropped; `…_LOCKED`,
 *   `…_LOCK_UNAVAILABLE`, `…_UNSUPPORTED_VERSION`, `…_NAME_TAKEN` or `…_IO`.
 * @throws {RangeError} if the journal cannot be cut at `truncateAt`.
 * @throws the reason of the signal if it is aborted before the first change.
 */
export async function repairJournal(
  given: FileSystem,
  path: string,
  options: RepairOptions & { readonly confirm?: ((plan: RepairPlan) => void) | undefined } = {},
): Promise<RepairResult | undefined> {
  const files = await locateJournal(given, path)
  await assertNamesUsable(given, files)
  const access = await accessOf(given, files)
  const lock = await WriterLock.acquire(given, files.lock, { kernel: true, holder: {}, journalPath: files.path, access })
  const fs = lock.fileSystem
  const { signal } = options
  try {
    const plan = await planRepair(fs, files, options)
    if (plan === undefined) return undefined
    options.confirm?.(plan)
    const { cutProblem, obstacle } = plan
    if (cutProblem !== undefined) throw new RangeError(cutProblem)
    if (obstacle !== undefined) {
      const message = `Repair drops no line, and ${obstacle.segment} has damage at ${obstacle.sequence}: ${obstacle.reason}`
      throw new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path: files.path, ...obstacle })
    }
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
  const changed = plan.segments.filter((segment) => segment.isHeaderNew || segment.isCut).map(({ name }) => name)
  const seal = plan.removesSeal ? [`${files.name}.seal`] : []
  const copies: string[] = []
  for (const name of [...plan.removals, ...changed, ...seal]) {
    signal?.throwIfAborted()
    copies.push(await keepBroken(fs, files.directory, name))
  }
  return copies
}

async function change(fs: FileSystem, files: JournalFiles, plan: RepairPlan): Promise<void> {
  const remove = async (path: string): Promise<void> => {
    await removeIfPresent(fs, path)
    await fs.syncDirectory(files.directory)
  }
  if (plan.removesSeal) await remove(files.seal)
  for (const { name, header, isHeaderNew, from, end } of plan.segments.toReversed()) {
    if (!isHeaderNew) continue
    await replace(fs, files, name, async (source, target) => {
      await writeFully(target, header, 0)
      for await (const { bytes, position } of readRange(source, { offset: from, bytes: end - from })) {
        await writeFully(target, bytes, header.length + position)
      }
    })
  }
  for (const name of plan.removals.toReversed()) await remove(files.at(name))
  const last = plan.segments.at(-1)
  if (last?.isCut !== true) return
  await replace(fs, files, last.name, (source, target) =>
    copyRange(source, target, { offset: 0, bytes: last.prefix.bytes }),
  )
}

async function replace(
  fs: FileSystem,
  files: JournalFiles,
  name: string,
  write: (source: File, target: File) => Promise<void>,
): Promise<void> {
  const source = await fs.open(files.at(name), 'read')
  try {
    await renameIntoPlace(fs, files.at(name), {
      access: await source.stat(),
      temporary: files.repairTemporary,
      write: (target) => write(source, target),
    })
    await fs.syncDirectory(files.directory)
  } finally {
    await source.close()
  }
}

/** Makes the journal whole, durable and sealed, as every open does. */
async function recover(files: JournalFiles, lock: WriterLock): Promise<void> {
  const journal = await recoverJournal(files, lock)
  const limits = { maxBytesPerSegment: Number.POSITIVE_INFINITY, maxSegments: Number.POSITIVE_INFINITY, preallocate: 0 }
  const writer = new JournalWriter(files, lock, journal, limits)
  await writer.sealOnOpen()
  await writer.close()
}
