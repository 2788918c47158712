import type { FileSystem } from '../fs/file-system.ts'
import { type JournalFiles, readSeal, type SegmentPrefix } from './format.ts'
import { checkJson, type CheckLine } from './repair-lines.ts'
import type { RepairChoice, RepairPlan } from './repair-plan.ts'
import { RepairPlanner } from './repair-planner.ts'
import { type RepairSource, surveyForRepair } from './repair-survey.ts'
import { missingActiveDamage, scanSegment } from './scan.ts'

/**
 * Reads a whole journal and says what a repair would do; undefined when there is no segment file. Changes
 * nothing.
 *
 * @param options.check throws for a line that is no record; JSON unless said otherwise.
 * @throws {MiniStoreError} as `surveyForRepair` does. The signal's reason when it is aborted.
 */
export async function planRepair(
  fs: FileSystem,
  files: JournalFiles,
  choice: RepairChoice,
  options: { readonly check?: CheckLine | undefined; readonly signal?: AbortSignal | undefined } = {},
): Promise<RepairPlan | undefined> {
  const { check = checkJson, signal } = options
  const sources = await surveyForRepair(fs, files, check)
  if (sources.length === 0) return undefined
  const seal = await readSeal(fs, files.seal)
  const planner = new RepairPlanner(files, { choice, check, seal })
  for (const source of sources) {
    const file = await fs.open(files.at(source.name), 'read')
    try {
      await planner.add(source, file, signal)
    } finally {
      await file.close()
    }
  }
  const last = sources.at(-1)
  if (last?.number !== undefined && (await isActiveGone(fs, files, last, seal))) planner.findGoneActive()
  const names = await fs.list(files.directory)
  return planner.finish({ hasSealFile: names.includes(`${files.name}.seal`) })
}

/** Whether the seal tells of an active segment that is not there, and that was none of the sealed. */
async function isActiveGone(
  fs: FileSystem,
  files: JournalFiles,
  last: RepairSource,
  seal: SegmentPrefix | undefined,
): Promise<boolean> {
  if (seal === undefined) return false
  const file = await fs.open(files.at(last.name), 'read')
  try {
    const { atCheckpoint: atSeal } = await scanSegment(file, { end: last.end, checkpoint: seal.bytes })
    return missingActiveDamage(files, seal, { atSeal }) !== undefined
  } finally {
    await file.close()
  }
}
