import type { SegmentPrefix } from './segment-prefix.ts'
import type { ReportDamage, Segment } from './segments.ts'

/** How a journal stood at one moment. */
export interface JournalView {
  /** Oldest first. */
  readonly segments: readonly Segment[]
  /** The last of them, and how far it may be read; undefined when there is none. */
  readonly tail: JournalTail | undefined
}

/** The end of a journal as it stood at one moment: where a replay that does not follow ends. */
export interface JournalTail {
  readonly segment: Segment
  /** Bytes of it that may be read. */
  readonly bytes: number
  /** Its prefixes that are known, by its seal or by its writer; shortest first. */
  readonly checkpoints: readonly SegmentPrefix[]
  /** Whether every byte of it is known to be acknowledged; if not, its last line may be torn, or not yet whole. */
  readonly isAcknowledged: boolean
}

/** Where a reader learns how the journal stands, and that it has changed. */
export interface JournalSource {
  readonly path: string
  /**
   * How the journal stands now.
   *
   * @param options.since a view of before: segments that were sealed then may be taken from it, even if they are gone
   *   by now.
   * @param options.report is told of damage to segments as such, once of each; without it the damage is thrown.
   */
  look(options?: { readonly since?: JournalView | undefined; readonly report?: ReportDamage | undefined }): Promise<JournalView>
  /**
   * Resolves with true when the journal may have changed since the view was taken, with false when it never will
   * again. Rejects when the signal is aborted.
   *
   * @param options.isRestless answers after a while in any case: the last line was not whole, and it may
   *   become another of the same length.
   */
  changedSince(view: JournalView, options: { readonly signal: AbortSignal; readonly isRestless: boolean }): Promise<boolean>
  /** Frees what waiting has taken. */
  close(): void
}
