import { MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { countLines, type Header, type JournalFiles } from './format.ts'
import { beginsWithRecord } from './repair-first-line.ts'
import type { CheckLine } from './repair-lines.ts'
import { inspectActive, type ReportDamage, surveySegments } from './segments.ts'

/** A segment file as a repair finds it, whatever is wrong with it. */
export interface RepairSource {
  readonly name: string
  /** Sealed segments have a number, the active one has none. */
  readonly number: number | undefined
  /** Undefined when line 1 is no header. */
  readonly header: Header | undefined
  /** Where the records begin: behind line 1, or with it when the header is missing and it is a record. */
  readonly from: number
  readonly end: number
  /**
   * Sequence number of its first record by its header, or counted back from one that comes later; undefined
   * when only those before it can tell.
   */
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
export async function surveyForRepair(
  fs: FileSystem,
  files: JournalFiles,
  check: CheckLine,
): Promise<RepairSource[]> {
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
    const found = segments.find((candidate) => candidate.name === name)?.header
    // A header without a version is one that could not be read.
    const header = found?.version === '' ? undefined : found
    const { from, end } = await measure(fs, files.at(name), header === undefined ? check : undefined)
    sources.push({ name, number, header, from, end, firstSequence: header?.sequence })
  }
  return numberBackwards(fs, files, sources)
}

/**
 * Counts back from the first segment whose header says its number. Not as the survey does, which takes every
 * line 1 for a header.
 */
async function numberBackwards(
  fs: FileSystem,
  files: JournalFiles,
  sources: readonly RepairSource[],
): Promise<RepairSource[]> {
  const anchor = sources.findIndex(({ firstSequence }) => firstSequence !== undefined)
  const numbered = [...sources]
  let first = sources[anchor]?.firstSequence ?? 0
  for (let at = anchor - 1; at >= 0; at--) {
    const source = sources[at] as RepairSource
    first -= await countRecords(fs, files.at(source.name), source)
    // With more records than that allows, nothing is known but that.
    if (first >= 1) numbered[at] = { ...source, firstSequence: first }
  }
  return numbered
}

/** Lines that have a sequence number, a last one without a line feed too. */
async function countRecords(
  fs: FileSystem,
  path: string,
  { from, end }: Pick<RepairSource, 'from' | 'end'>,
): Promise<number> {
  const file = await fs.open(path, 'read')
  try {
    let lines = 0
    let last: number | undefined
    for await (const { bytes } of readRange(file, { offset: from, bytes: end - from })) {
      lines += countLines(bytes)
      last = bytes.at(-1)
    }
    return last === undefined || last === newline ? lines : lines + 1
  } finally {
    await file.close()
  }
}

const newline = 0x0a

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

/**
 * Where the records of a file begin, and where it ends.
 *
 * @param check is given when line 1 is no header: it may be a record.
 */
async function measure(
  fs: FileSystem,
  path: string,
  check: CheckLine | undefined,
): Promise<{ from: number; end: number }> {
  const file = await fs.open(path, 'read')
  try {
    const { size: end } = await file.stat()
    if (check !== undefined && (await beginsWithRecord(file, end, check))) return { from: 0, end }
    for await (const { bytes, position } of readRange(file, { offset: 0, bytes: end })) {
      const at = bytes.indexOf(newline)
      if (at !== -1) return { from: position + at + 1, end }
    }
    return { from: end, end }
  } finally {
    await file.close()
  }
}
