import type { MiniStoreError } from '../errors.ts'
import { formatHeader } from './header.ts'
import type { JournalFiles } from './journal-files.ts'
import { formatSeal } from './seal.ts'
import type { SegmentScan } from './segment-scan.ts'
import { headerPrefix, samePrefix, type SegmentPrefix } from './segment-prefix.ts'
import { damaged, type Segment } from './segments.ts'

/** The damage a seal shows in the active segment, if it does. */
export function sealDamage(
  files: JournalFiles,
  active: Segment,
  seal: SegmentPrefix,
  scan: Pick<SegmentScan, 'atCheckpoint' | 'prefix'>,
): MiniStoreError | undefined {
  const { atCheckpoint } = scan
  if (atCheckpoint !== undefined && samePrefix(atCheckpoint, seal)) return undefined
  const problem =
    atCheckpoint === undefined
      ? `the seal covers ${seal.bytes} bytes, but only the first ${scan.prefix.bytes} are there in whole lines`
      : `a byte among the first ${seal.bytes} has changed: the seal says ${formatSeal(seal).trim()}, ` +
        `the segment has ${formatSeal(atCheckpoint).trim()}`
  return damaged(files.path, active.name, problem)
}

/**
 * The damage when there is no active segment but a seal that says there was one, with records or with a place in the
 * sequence that nothing else tells. A crash never leaves that: a rotation removes the seal, durably, before it renames
 * the segment. It may be the seal of the segment sealed last, when another program rotated.
 *
 * @param lastSealed what the segment sealed last holds up to the seal's bytes; undefined when none is sealed.
 */
export function missingActiveDamage(
  files: JournalFiles,
  seal: SegmentPrefix | undefined,
  lastSealed: { readonly atSeal: SegmentPrefix | undefined } | undefined,
): MiniStoreError | undefined {
  const isHarmless =
    seal === undefined ||
    (lastSealed === undefined ? samePrefix(seal, newJournal) : seal.records === 0) ||
    (lastSealed?.atSeal !== undefined && samePrefix(lastSealed.atSeal, seal))
  if (isHarmless) return undefined
  const problem =
    `the active segment is gone, and its seal ${files.seal} says that it held ${seal.records} record(s) in ` +
    `${seal.bytes} bytes. Put the file back; or, to go on without it, remove the seal`
  return damaged(files.path, files.name, problem)
}

/** An empty journal that never held a record. */
const newJournal = headerPrefix(Buffer.from(formatHeader({ sequence: 1, previousCrc32: undefined })))
