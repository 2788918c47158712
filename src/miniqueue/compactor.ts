import type { CompactionReport } from '../ministate/index.ts'

/** What is compacted. */
export interface Compactable {
  /** Bytes of the journal on the disk. */
  readonly journalBytes: number
  /** About how many bytes of JSON the state is. */
  readonly liveBytes: number
  compact(): Promise<CompactionReport>
}

/**
 * Decides when the dead weight of a journal has become too much.
 *
 * Right behind a compaction the disk has two snapshots, by default, and the records since the older one. Each
 * period between two adds the larger of `minBytes` and `ratio` times what lives: so all files stay below
 * about `2 × (1 + ratio)` times what lives, or `2 × minBytes` more than that where little does.
 */
export class Compactor {
  readonly #target: Compactable
  readonly #limits: { readonly minBytes: number; readonly ratio: number }
  readonly #tell: (error: unknown) => void
  /** Bytes of the journal that were there right after the last compaction. */
  #baseBytes: number
  /** After a compaction that failed, the length of the journal at which it is tried again. */
  #againAtBytes = 0

  constructor(parts: {
    readonly target: Compactable
    readonly limits: { readonly minBytes: number; readonly ratio: number }
    readonly tell: (error: unknown) => void
    readonly baseBytes: number
  }) {
    this.#target = parts.target
    this.#limits = parts.limits
    this.#tell = parts.tell
    this.#baseBytes = parts.baseBytes
  }

  /** Compacts. */
  async compact(): Promise<CompactionReport> {
    const report = await this.#target.compact()
    this.#baseBytes = this.#target.journalBytes
    this.#againAtBytes = 0
    return report
  }

  /** Compacts if it is time to. A failure is told, and it is tried again `minBytes` later. */
  async compactIfDue(): Promise<void> {
    const { journalBytes, liveBytes } = this.#target
    const { minBytes, ratio } = this.#limits
    const appended = journalBytes - this.#baseBytes
    if (appended <= Math.max(minBytes, ratio * liveBytes) || journalBytes < this.#againAtBytes) return
    try {
      await this.compact()
    } catch (error) {
      this.#againAtBytes = this.#target.journalBytes + minBytes
      this.#tell(error)
    }
  }
}
