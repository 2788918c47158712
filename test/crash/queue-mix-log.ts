import { countsText } from './counts-text.ts'
import { assertThat } from './model-assert.ts'

/** How much happened; a test that does less than it did shows here. */
export class MixCounts {
  runs = 0
  lives = 0
  enqueued = 0
  handlers = 0
  received = 0
  streamed = 0
  /** Handlers that have returned in time. */
  returned = 0
  acked = 0
  nacked = 0
  redriven = 0
  purged = 0
  /** By a call: it also happens by itself. */
  compacted = 0
  aborted = 0
  /** Acks and nacks that came too late. */
  leasesLost = 0
  /** Attempts that nobody has made, and that the journal takes back. */
  takenBack = 0
  fullDisks = 0
  /** Closes that found the disk full. */
  fullCloses = 0
  /** Moments at which nobody may wait while something is ready. */
  looks = 0

  toString(): string {
    return countsText(this)
  }
}

/**
 * What happened in a run, and what of it was wrong. Who is called by the queue cannot throw what is wrong: the
 * queue would take it for the failure of a handler.
 */
export class MixLog {
  readonly #lines: string[] = []
  readonly #wrong: string[] = []

  note(line: string): void {
    this.#lines.push(line)
  }

  /** Keeps what is wrong unless the claim holds. */
  claim(holds: boolean, otherwise: string): void {
    if (holds) return
    this.#wrong.push(otherwise)
    this.note(`WRONG: ${otherwise}`)
  }

  throwIfWrong(): void {
    assertThat(this.#wrong.length === 0, this.#wrong.join('; '))
  }

  toString(): string {
    return this.#lines.join('\n')
  }
}
