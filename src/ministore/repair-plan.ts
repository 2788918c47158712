import type { CheckLine } from './repair-lines.ts'
import type { SegmentPrefix } from './format.ts'

/** How damage that cannot be mended without loss is to go: what the person must choose. */
export type RepairChoice =
  /** Bad lines go, everything else stays. Records behind a line that goes get lower sequence numbers. */
  | { readonly kind: 'drop-damaged' }
  /** Everything from this sequence number on goes. What stays keeps its sequence numbers. */
  | { readonly kind: 'truncate-at'; readonly sequence: number }

/** Something wrong that a repair mends. */
export interface RepairFinding {
  readonly segment: string
  readonly line?: number
  readonly offset?: number
  readonly bytes?: number
  readonly sequence?: number
  readonly reason: string
  /**
   * What becomes of it: the line or file goes; header, chain or name are made anew; or nothing can be done
   * but go on.
   */
  readonly action: 'remove' | 'rebuild' | 'accept'
}

/** A segment as it will be. */
export interface PlannedSegment {
  readonly source: string
  /** Its name, another one when numbers before it are missing. */
  readonly target: string
  /** Whether its bytes change. */
  readonly isChanged: boolean
  /** Line 1 as it will be, `\n` included. */
  readonly header: string
  readonly from: number
  readonly end: number
  /** Lines behind the header, bad ones too, of which any are kept. */
  readonly limit: number
  /** All of it, as it will be: held against what is written. */
  readonly prefix: SegmentPrefix
}

/** What a repair would do. Nothing is changed by making one. */
export interface RepairPlan {
  readonly choice: RepairChoice
  readonly check: CheckLine
  readonly segments: readonly PlannedSegment[]
  /** Names of segment files that go, oldest first. */
  readonly removals: readonly string[]
  readonly removesSeal: boolean
  /** The first {@link mostFindings} of them. */
  readonly findings: readonly RepairFinding[]
  readonly findingCount: number
  /** Bad lines that go. */
  readonly dropped: { readonly lines: number; readonly bytes: number }
  /** What goes because of where the journal is cut. */
  readonly cut:
    | { readonly records: number; readonly bytes: number; readonly first: number; readonly last: number }
    | undefined
  /** Records that get another sequence number, and the first of those as it is now. */
  readonly renumbered:
    { readonly records: number; readonly first: number; readonly becomes: number } | undefined
  /**
   * The lowest sequence number, as they are now, from which on something is lost, missing or renumbered, the
   * cut aside.
   */
  readonly firstDamaged: number | undefined
  /** Records that numbers or the seal tell of and that were not there any more: no loss by the repair. */
  readonly recordsGone: number
  /** Records that stay. */
  readonly records: number
  readonly firstSequence: number
  /** Of the journal as it is now, bad lines counted. */
  readonly lastSequenceNow: number
}

/** More are counted and not listed: a disk full of garbage must not fill the memory. */
export const mostFindings = 1000

/** Whether there is nothing to mend and nothing to cut. */
export function isSound(plan: RepairPlan): boolean {
  return plan.findingCount === 0 && plan.cut === undefined
}

/** Whether something is lost or renumbered, so that a person must have chosen how. */
export function isLossy(plan: RepairPlan): boolean {
  return plan.firstDamaged !== undefined || plan.cut !== undefined
}

/** Why a plan cannot be carried out; undefined when it can. */
export interface RepairRefusal {
  /** `choice` when another choice would do; `damage` when no choice would. */
  readonly because: 'choice' | 'damage'
  readonly message: string
}

export function refusalOf(plan: RepairPlan): RepairRefusal | undefined {
  const { choice, firstSequence, lastSequenceNow, firstDamaged, records } = plan
  if (choice.kind === 'truncate-at') {
    const { sequence } = choice
    const most = lastSequenceNow + 1
    if (records === 0 || sequence > most) {
      const range = `from ${firstSequence + 1} to ${most}`
      const effect = records === 0 ? 'leave no record' : 'cut nothing'
      const message = `Expected a sequence number ${range}, got ${sequence}: it would ${effect}`
      return { because: 'choice', message }
    }
    if (firstDamaged === undefined) return undefined
    const message =
      `Cutting at ${sequence} would keep damage before it: the first is at sequence ${firstDamaged}. ` +
      'Cut there, or drop what is damaged'
    return { because: 'choice', message }
  }
  if (records > 0 || lastSequenceNow < firstSequence) return undefined
  return {
    because: 'damage',
    message: 'No line of the journal is a record, so nothing would be left. Is it of another codec?',
  }
}
