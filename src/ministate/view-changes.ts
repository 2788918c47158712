import { AsyncResource } from 'node:async_hooks'
import type { UnderlyingSource } from 'node:stream/web'

import { throwIfAborted, whenAborted } from '../async.ts'
import { hasCode } from '../errors.ts'
import type { JournalEntry, JournalRange } from '../journal/journal.ts'
import { streamSettings } from '../ministore/settings.ts'
import type { ViewedJournal } from './view-source.ts'

/** How far a view is, for the streams of its changes. */
export interface ViewProgress {
  readonly sequence: () => number
  /** Resolves once the view has folded a record. Rejects when the view has stopped before it. */
  readonly folded: (sequence: number) => Promise<unknown>
  /** Aborted with the reason when the view stops. */
  readonly stopped: AbortSignal
  /** Whether it stopped because the journal ended, as a journal does when it is closed. */
  readonly hasJournalEnded: () => boolean
}

/** The records of a journal, each given only after a view has folded it. See `StateView.changes`. */
export function followedChanges<Mutation>(
  journal: ViewedJournal<Mutation>,
  options: JournalRange,
  view: ViewProgress,
): ReadableStream<JournalEntry<Mutation>> {
  const { from, to, follow, signal } = streamSettings(options)
  if (follow) return new FollowingStream(new FoldedEntries(journal, { from, to, signal }, view), { highWaterMark: 0 })
  return entriesUpTo(journal, { from, to, signal }, view.sequence())
}

/** The records of a range that are not after `last`. */
function entriesUpTo<Mutation>(
  journal: ViewedJournal<Mutation>,
  { from, to = Number.POSITIVE_INFINITY, signal }: JournalRange,
  last: number,
): ReadableStream<JournalEntry<Mutation>> {
  const end = Math.min(to, last)
  return end < (from ?? 1) ? emptyStream(signal) : journal.entries({ from, to: end, signal })
}

function emptyStream<T>(signal: AbortSignal | undefined): ReadableStream<T> {
  return new ReadableStream<T>({
    start: (controller) => (signal?.aborted === true ? controller.error(signal.reason) : controller.close()),
  })
}

/**
 * A stream whose iterator can be left at once. The iterator of Node would wait for a pending `next`,
 * which waits for the next record.
 */
class FollowingStream<T> extends ReadableStream<T> {
  override values({ preventCancel = false }: { preventCancel?: boolean } = {}): FollowingIterator<T> {
    return new FollowingIterator(this.getReader(), preventCancel)
  }

  override [Symbol.asyncIterator](options?: { preventCancel?: boolean }): FollowingIterator<T> {
    return this.values(options)
  }
}

const done = { done: true, value: undefined } as const

class FollowingIterator<T> implements AsyncIterableIterator<T, undefined, void> {
  readonly #reader: ReadableStreamDefaultReader<T>
  readonly #preventCancel: boolean
  #isFinished = false

  constructor(reader: ReadableStreamDefaultReader<T>, preventCancel: boolean) {
    this.#reader = reader
    this.#preventCancel = preventCancel
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this.#isFinished) return done
    try {
      const result = await this.#reader.read()
      if (!result.done) return result
    } catch (error) {
      // Releasing the reader makes pending reads reject.
      if (this.#isFinished) return done
      this.#finish()
      throw error
    }
    this.#finish()
    return done
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    if (this.#isFinished) return done
    const canceled = this.#preventCancel ? undefined : this.#reader.cancel()
    this.#finish()
    await canceled
    return done
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #finish(): void {
    if (this.#isFinished) return
    this.#isFinished = true
    this.#reader.releaseLock()
  }
}

/**
 * The source of a stream that follows a view. It holds no record: it takes the next one from the
 * journal when its consumer asks for it.
 */
class FoldedEntries<Mutation> implements UnderlyingSource<JournalEntry<Mutation>> {
  readonly #journal: ViewedJournal<Mutation>
  readonly #range: JournalRange
  readonly #view: ViewProgress
  /** Aborted when the consumer leaves, or its signal is aborted. */
  readonly #left = new AbortController()
  /** Aborted then too, and when the view stops: the follower may wait for a record that is never folded. */
  readonly #unfollowed = new AbortController()
  #live: AsyncIterator<JournalEntry<Mutation>> | undefined
  /** Reads what the view had folded when it stopped. */
  #rest: AsyncIterator<JournalEntry<Mutation>> | undefined
  #last: number | undefined
  #forget: Array<() => void> = []
  /** The codec and the schema run in the context in which the stream was created, not in that of its consumer. */
  readonly #context = new AsyncResource('ministore')

  constructor(journal: ViewedJournal<Mutation>, range: JournalRange, view: ViewProgress) {
    this.#journal = journal
    this.#range = range
    this.#view = view
  }

  async pull(controller: ReadableStreamDefaultController<JournalEntry<Mutation>>): Promise<void> {
    try {
      const entry = await this.#context.runInAsyncScope(() => this.#next())
      if (this.#left.signal.aborted) throw this.#left.signal.reason
      if (entry === undefined) {
        this.#release()
        controller.close()
      } else {
        this.#last = entry.sequence
        controller.enqueue(entry)
      }
    } catch (error) {
      this.#release()
      throw this.#left.signal.aborted ? this.#left.signal.reason : error
    }
  }

  cancel(reason?: unknown): void {
    this.#left.abort(reason)
    this.#unfollowed.abort(reason)
    this.#release()
  }

  async #next(): Promise<JournalEntry<Mutation> | undefined> {
    const { stopped } = this.#view
    try {
      this.#live ??= this.#follow()
      throwIfAborted(this.#unfollowed.signal)
      const result = await this.#live.next()
      if (result.done === true) return undefined
      await this.#view.folded(result.value.sequence)
      return result.value
    } catch (error) {
      if (!stopped.aborted || this.#left.signal.aborted) throw error
    }
    this.#rest ??= this.#readRest()
    const result = await this.#rest.next()
    if (result.done !== true) return result.value
    const isAtEnd = this.#last !== undefined && this.#last === this.#range.to
    if (isAtEnd || hasCode(stopped.reason, 'ERR_MINISTORE_CLOSED')) return undefined
    throw stopped.reason
  }

  #follow(): AsyncIterator<JournalEntry<Mutation>> {
    const { from, to, signal } = this.#range
    // From the first read on, because a signal would keep a stream that is never read in memory.
    const onStop = (): void => {
      // A journal that has ended may refuse new streams, but this one still gives the rest, and ends by itself.
      if (this.#live === undefined || !this.#view.hasJournalEnded()) this.#unfollowed.abort(this.#view.stopped.reason)
    }
    this.#forget = [whenAborted(this.#view.stopped, onStop)]
    if (signal !== undefined) this.#forget.push(whenAborted(signal, () => this.cancel(signal.reason)))
    return this.#journal.entries({ from, to, follow: true, signal: this.#unfollowed.signal })[Symbol.asyncIterator]()
  }

  #readRest(): AsyncIterator<JournalEntry<Mutation>> {
    const from = this.#last === undefined ? this.#range.from : this.#last + 1
    const range = { from, to: this.#range.to, signal: this.#left.signal }
    return entriesUpTo(this.#journal, range, this.#view.sequence())[Symbol.asyncIterator]()
  }

  #release(): void {
    for (const forget of this.#forget) forget()
    this.#forget = []
  }
}
