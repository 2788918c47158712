import { MiniStoreError, type MiniStore } from '../../../src/index.ts'
import { deferred } from '../../support/deferred.ts'
import { assertThat } from './model-assert.ts'
import type { PlainJournal } from './model-journal.ts'

/** How the follower's store ended. */
export type Ending = 'closed' | 'poisoned' | 'killed'

/** A reader that is open while the journal changes. It is judged when its store has ended. */
export class Follower {
  readonly #store: MiniStore
  readonly #from: number
  readonly #isLazy: boolean
  readonly #abort = new AbortController()
  readonly #released = deferred()
  readonly #seen: string[] = []
  readonly #ended: Promise<unknown>

  constructor(store: MiniStore, options: { readonly from: number; readonly isLazy: boolean }) {
    this.#store = store
    this.#from = options.from
    this.#isLazy = options.isLazy
    this.#ended = this.#follow().then(
      () => undefined,
      (error: unknown) => error,
    )
  }

  async #follow(): Promise<void> {
    const from = this.#from
    const options = { from, follow: true, signal: this.#abort.signal }
    for await (const { sequence, record } of this.#store.entries(options)) {
      assertThat(sequence === from + this.#seen.length, `a follower skipped to ${sequence}`)
      assertThat(sequence <= this.#store.lastSequence, `a follower got ${sequence} too early`)
      this.#seen.push(JSON.stringify(record))
      if (this.#isLazy) await this.#released.promise
    }
  }

  /**
   * Waits for the follower to end, and throws unless it saw exactly the records of the journal.
   *
   * @param highest the highest sequence number that the oldest record may have after a deletion
   * failed halfway.
   */
  async finish(journal: PlainJournal, ending: Ending, highest: number = journal.first): Promise<void> {
    if (ending === 'killed') this.#abort.abort()
    this.#released.resolve()
    const error = await this.#ended
    const next = this.#from + this.#seen.length
    const expected = journal.texts.slice(this.#from - 1, next - 1)
    assertThat(
      JSON.stringify(this.#seen) === JSON.stringify(expected),
      `a follower from ${this.#from} saw ${this.#seen.join(' ')}, expected ${expected.join(' ')}`,
    )
    if (ending === 'killed') return
    const code = error instanceof MiniStoreError ? error.code : undefined
    if (code === 'ERR_MINISTORE_SEQUENCE_GONE' && next < highest) return
    if (code === 'ERR_MINISTORE_POISONED' && ending === 'poisoned') return
    assertThat(error === undefined, `a follower ended with ${String(error)}`)
    assertThat(
      next === Math.max(this.#from, journal.last + 1) || ending === 'poisoned',
      `a follower from ${this.#from} ended before ${next}, though ${journal.last} is the last record`,
    )
  }
}
