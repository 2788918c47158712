import type { SegmentPrefix } from './segment-prefix.ts'
import type { Segment } from './segments.ts'

/** How a journal stood at one moment. */
export interface JournalView {
  /** Oldest first. */
  readonly segments: readonly Segment[]
  /** How far the last segment may be read; undefined when there is none. */
  readonly end: JournalEnd | undefined
  /** Prefixes of the last segment that are known, by its seal or by its writer; shortest first. */
  readonly checkpoints: readonly SegmentPrefix[]
  /** The file under the active name, whatever it holds: when it changes, so may the journal have. */
  readonly activeFile?: { readonly inode: number; readonly bytes: number } | undefined
  /** Whether it comes from the writer in this process: then every byte below the end is acknowledged. */
  readonly isLive: boolean
}

/** A place in a journal: so many bytes of the segment that begins with that sequence number. */
export interface JournalEnd {
  readonly firstSequence: number
  readonly bytes: number
}

/** Where a reader learns how the journal stands, and that it has changed. */
export interface JournalSource {
  readonly path: string
  /**
   * How the journal stands now.
   *
   * @param since a view of before: segments that were sealed then may be taken from it, even if they are gone by now.
   */
  look(since?: JournalView): Promise<JournalView>
  /**
   * Resolves with true when the journal may have changed since the view was taken, with false when it never will
   * again. Rejects when the signal is aborted.
   */
  changedSince(view: JournalView, signal: AbortSignal): Promise<boolean>
  /** Frees what waiting has taken. */
  close(): void
}
