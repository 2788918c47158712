import type { BadLine, LineRun } from './repair-lines.ts'
import { mostFindings, type RepairFinding, type RepairPlan } from './repair-plan.ts'

type Entries = Pick<
  RepairPlan,
  'findings' | 'findingCount' | 'dropped' | 'cut' | 'renumbered' | 'firstDamaged' | 'recordsGone'
>

/** Keeps count, while a repair is planned, of what is found, lost and renumbered. */
export class RepairLedger {
  readonly #cutAt: number
  readonly #findings: RepairFinding[] = []
  #findingCount = 0
  readonly #dropped = { lines: 0, bytes: 0 }
  #cut: { records: number; bytes: number; first: number; last: number } | undefined
  #renumbered: { records: number; first: number; becomes: number } | undefined
  #firstDamaged: number | undefined
  #recordsGone = 0

  /** @param cutAt sequence number from which on everything goes. */
  constructor(cutAt: number) {
    this.#cutAt = cutAt
  }

  entries(): Entries {
    return {
      findings: this.#findings,
      findingCount: this.#findingCount,
      dropped: this.#dropped,
      cut: this.#cut,
      renumbered: this.#renumbered,
      firstDamaged: this.#firstDamaged,
      recordsGone: this.#recordsGone,
    }
  }

  /**
   * Notes something to mend; what lies behind the cut goes with it and is none.
   *
   * @param effect.damagedFrom sequence number from which on records are lost, missing or renumbered.
   * @param effect.gone how many records it says that there were, and are not there.
   */
  find(
    finding: RepairFinding,
    effect: { readonly damagedFrom?: number; readonly gone?: number } = {},
  ): void {
    const { damagedFrom, gone = 0 } = effect
    if ((finding.sequence ?? 0) >= this.#cutAt) return
    this.#findingCount++
    if (this.#findings.length < mostFindings) this.#findings.push(finding)
    this.#recordsGone += gone
    if (damagedFrom !== undefined) this.#damageAt(damagedFrom)
  }

  /** Counts records that stay under another number. */
  renumber(run: { readonly now: number; readonly becomes: number; readonly records: number }): void {
    if (run.records === 0 || run.now === run.becomes) return
    this.#renumbered ??= { records: 0, first: run.now, becomes: run.becomes }
    this.#renumbered.records += run.records
    this.#damageAt(run.now)
  }

  /** Counts what of a run lies behind the cut. */
  cut(run: LineRun, kept: LineRun, first: number): void {
    const isBadCut = run.bad !== undefined && first + run.lines >= this.#cutAt
    const records = run.lines - kept.lines
    if (records === 0 && !isBadCut) return
    const bytes = run.good.length - kept.good.length + (isBadCut ? (run.bad?.bytes ?? 0) : 0)
    const last = first + run.lines + (isBadCut ? 1 : 0) - 1
    this.#cut ??= { records: 0, bytes: 0, first: first + kept.lines, last }
    this.#cut.records += records
    this.#cut.bytes += bytes
    this.#cut.last = last
  }

  /** Counts a bad line that goes, of a segment whose first record has the number `first`. */
  drop(bad: BadLine, at: { readonly segment: string; readonly first: number; readonly firstLine: number }): void {
    this.#dropped.lines++
    this.#dropped.bytes += bad.bytes
    const { offset, bytes, reason, index } = bad
    const sequence = at.first + index
    const line = at.firstLine + index
    const finding = { segment: at.segment, line, offset, bytes, sequence, reason, action: 'remove' } as const
    this.find(finding, { damagedFrom: sequence })
  }

  #damageAt(sequence: number): void {
    if (sequence < this.#cutAt) this.#firstDamaged = Math.min(this.#firstDamaged ?? sequence, sequence)
  }
}
