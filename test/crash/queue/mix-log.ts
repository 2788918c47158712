import { countsText } from '../counts-text.ts'
import { assertThat } from '../journal/model-assert.ts'

/** How much happened. The tests check these counts, so a test that does less than before fails. */
export class MixCounts {
  runs = 0
  lives = 0
  enqueued = 0
  handlers = 0
  received = 0
  streamed = 0
  /** Handlers that returned in time. */
  returned = 0
  acked = 0
  nacked = 0
  redriven = 0
  purged = 0
  /** Compactions by a call. They also happen without one. */
  compacted = 0
  aborted = 0
  /** Nacks after a stop, which take back the attempt. */
  refunded = 0
  /** Acks and nacks that came too late. */
  leasesLost = 0
  /** Attempts that the journal takes back, since their messages were never handed out. */
  takenBack = 0
  fullDisks = 0
  /** Closes that found the disk full. */
  fullCloses = 0
  /** Moments at which no user may wait while a message is ready. */
  looks = 0

  toString(): string {
    return countsText(this)
  }
}

/**
 * What happened in a run, and what was wrong. Code that the queue calls must not throw a finding,
 * since the queue would take it for a failed handler.
 */
export class MixLog {
  readonly #lines: string[] = []
  readonly #wrong: string[] = []

  note(line: string): void {
    this.#lines.push(line)
  }

  /** Records a finding unless the claim holds. */
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
