import { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { readRange } from '../fs/read-range.ts'
import type { Header } from './header.ts'
import type { JournalFiles } from './journal-files.ts'
import { inspectActive, type ReportDamage, surveySegments } from './segments.ts'

/** A segment file as a repair finds it, whatever is wrong with it. */
export interface RepairSource {
  readonly name: string
  /** Sealed segments have a number, the active one has none. */
  readonly number: number | undefined
  /** Undefined when line 1 is no header. */
  readonly header: Header | undefined
  /** Where line 1 ends: the records begin there. */
  readonly from: number
  readonly end: number
  /** Sequence number of its first record by its header or its neighbours; undefined when nothing tells. */
  readonly firstSequence: number | undefined
}

/**
 * Every segment file of a journal, oldest first, those without a header too. An active file that holds
 * nothing or only part of a header is left out: recovery makes a new one. The caller holds the lock, or looks
 * at a journal that nobody writes to.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` when two segments have one number: which of them is wrong
 *   only a person can say. `…_UNSUPPORTED_VERSION`, `…_IO`.
 */
export async function surveyForRepair(fs: FileSystem, files: JournalFiles): Promise<RepairSource[]> {
  let isActiveDamaged = false
  const report: ReportDamage = ({ segment }) => {
    if (segment === files.name) isActiveDamaged = true
  }
  const active = await inspectActive(fs, files, report)
  const { segments, names } = await surveySegments(fs, files, active, report)
  const numbered = sealedByNumber(files, names)
  const isActiveKept = active !== undefined && ('header' in active || isActiveDamaged)
  const sources: RepairSource[] = []
  for (const { name, number } of [
    ...numbered,
    ...(isActiveKept ? [{ name: files.name, number: undefined }] : []),
  ]) {
    const segment = segments.find((candidate) => candidate.name === name)
    const { from, end } = await measure(fs, files.at(name))
    // A header without a version is one that could not be read.
    const header = segment?.header.version === '' ? undefined : segment?.header
    sources.push({ name, number, header, from, end, firstSequence: segment?.firstSequence })
  }
  return sources
}

function sealedByNumber(
  files: JournalFiles,
  names: readonly string[],
): Array<{ name: string; number: number }> {
  const numbered = names
    .flatMap((name) => {
      const number = files.sealedNumber(name)
      return number === undefined ? [] : [{ name, number }]
    })
    .toSorted((left, right) => left.number - right.number)
  for (const [at, { name, number }] of numbered.entries()) {
    const before = numbered[at - 1]
    if (before?.number !== number) continue
    const message =
      `Two segments have number ${number}: ${before.name} and ${name}. Which one belongs to the journal ` +
      'only you can say: move the other one away and try again'
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path: files.path, segment: name })
  }
  return numbered
}

/** Where the first line of a file ends, and where the file does. */
async function measure(fs: FileSystem, path: string): Promise<{ from: number; end: number }> {
  const file = await fs.open(path, 'read')
  try {
    const { size } = await file.stat()
    for await (const { bytes, position } of readRange(file, { offset: 0, bytes: size })) {
      const at = bytes.indexOf(0x0a)
      if (at !== -1) return { from: position + at + 1, end: size }
    }
    return { from: size, end: size }
  } finally {
    await file.close()
  }
}
