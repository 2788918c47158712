import { setImmediate as turn } from 'node:timers/promises'

import { settledOrAborted, tell, throwIfAborted, whenAborted } from '../async.ts'
import { MiniStoreError } from '../errors.ts'
import type { Journal, JournalEntry, JournalRange } from '../journal/journal.ts'
import { fields } from '../options.ts'
import { mutate, type StateAt, wrongRecord } from './recovery.ts'
import {
  type CaughtUpOptions, caughtUpSettings, type DeepReadonly, type ViewOptions, viewSettings, type ViewSettings,
} from './settings.ts'
import { StateSnapshots } from './snapshots.ts'
import { followedChanges } from './view-changes.ts'
import { ViewSource } from './view-source.ts'

/** A view lets other work run after folding for this long, in milliseconds. */
const turnMs = 10

/**
 * A read model: a state folded from a journal, which follows the journal live. Any process may have
 * any number of them beside the writer.
 *
 * Over a journal it is a *projection*, with a mutator of its own. Over the directory of a state it
 * is a *read replica*: give it the mutator of the manager. It then begins at the manager's newest
 * snapshot, and goes on with a newer one when a compaction has dropped its next record. It changes
 * nothing there.
 *
 * **Invariant.** The state is the fold of the journal's records up to {@link sequence}, in order,
 * each applied once.
 *
 * The view reads the next record when it has folded the one before, so a slow mutator costs no
 * memory. An open view keeps the process alive.
 *
 * The first error stops the view: the error of the mutator, a damaged journal, a failed read.
 * {@link state} and {@link sequence} stay as they were before it, {@link caughtUp} rejects with it,
 * and `onError` is told once. When the journal is closed, the view folds what it still has and then
 * stops with `ERR_MINISTORE_CLOSED`, without telling `onError`.
 *
 * All functions of the caller run in the asynchronous context of {@link open}; for a stream of
 * {@link changes}, codec and schema run in the context of that call.
 *
 * ```ts
 * await using totals = await StateView.open('orders/journal.jsonl', {
 *   initialState: () => ({ total: 0 }),
 *   mutator: (state, { amount }: { amount: number }) => {
 *     state.total += amount
 *   },
 * })
 * await totals.caughtUp()
 * ```
 */
export class StateView<State, Mutation = unknown> implements AsyncDisposable {
  readonly #source: ViewSource<State, Mutation>
  readonly #settings: ViewSettings<State, Mutation>
  readonly #snapshots: StateSnapshots<State> | undefined
  #state: State
  #sequence: number
  /** The view is open once it has reached this sequence number. */
  readonly #openFrom: number
  /** Aborted when the view stops, with the error for every later call. */
  readonly #stopped = new AbortController()
  readonly #waiting = new Set<Waiter>()
  /** The smallest sequence number for which a call waits. */
  #nextAwaited = Number.POSITIVE_INFINITY
  /** Set while the state may be half changed by a mutator that threw. */
  #lost: MiniStoreError | undefined
  #hasJournalEnded = false
  #running: Promise<void> | undefined
  #closing: Promise<void> | undefined
  #forgetSignal: (() => void) | undefined

  private constructor(
    source: ViewSource<State, Mutation>,
    settings: ViewSettings<State, Mutation>,
    { base, own, last }: Awaited<ReturnType<ViewSource<State, Mutation>['begin']>>,
  ) {
    this.#source = source
    this.#settings = settings
    this.#state = base.state
    this.#sequence = base.sequence
    this.#openFrom = last
    this.#snapshots = source.own && new StateSnapshots(source.own, settings.automatic, own, source.journal)
  }

  /**
   * Opens a view and resolves when it has folded every record that was there at the call.
   *
   * `source` is the path of a journal, the path of a state's directory, or an open journal, such as
   * a `MiniStore`. A path is read in any process, takes no lock, and may not exist yet: it is then the
   * path of a journal, and stays one also if a state's directory is created there later. An open journal stays open when the view is closed.
   *
   * With `snapshots.directory`, the view begins at the newest of its own snapshots there and folds
   * only the records after it.
   *
   * @throws {MiniStoreError}
   *   - `ERR_MINISTORE_STATE_GAP` if the journal no longer has a record that is needed.
   *   - `ERR_MINISTORE_SNAPSHOT_AHEAD` if a snapshot is newer than the journal.
   *   - `ERR_MINISTORE_LOCKED` if another view uses the directory of the snapshots;
   *     `…_LOCK_UNAVAILABLE` if the system has no kernel lock.
   *   - `ERR_MINISTORE_CLOSED` if the journal is an open one that was closed.
   *   - `ERR_MINISTORE_MUTATOR` if the mutator throws; and the errors of `MiniStore.entries` and
   *     `SnapStore.restore`.
   * @throws {TypeError | RangeError} if the source or an option is invalid.
   * @throws the reason of `signal`.
   */
  static async open<State, Mutation = unknown>(
    source: string | URL | Journal<Mutation, never>,
    options: ViewOptions<State, Mutation>,
  ): Promise<StateView<State, Mutation>> {
    const settings = viewSettings<State, Mutation>(options)
    const { signal } = settings
    if (signal !== undefined) throwIfAborted(signal)
    const opened = await ViewSource.open(source, settings)
    let view: StateView<State, Mutation> | undefined
    try {
      const start = await opened.begin()
      if (signal !== undefined) throwIfAborted(signal)
      view = new StateView(opened, settings, start)
      view.#start()
      await view.#folded(start.last)
      return view
    } catch (error) {
      // The first error is the one to report.
      await (view ?? opened).close().catch(() => {})
      throw error
    }
  }

  /**
   * The state after the record {@link sequence}. It stays readable when the view has stopped.
   *
   * This is the object that the mutator works on, so it changes with the next record. Do not change
   * it yourself.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR` after a mutator threw, until the state before
   *   that record is rebuilt: the mutator may have left it half changed. It is rebuilt from the
   *   nearest snapshot, or the beginning, before `onError` and waiting calls learn of the error.
   *   If the records for that are gone, it stays lost.
   */
  get state(): DeepReadonly<State> {
    if (this.#lost !== undefined) throw this.#lost
    return this.#state as DeepReadonly<State>
  }

  /**
   * Returns a deep copy of the state (`structuredClone`). The copy is yours to change.
   *
   * @throws {MiniStoreError} as {@link state}.
   */
  snapshot(): State {
    return structuredClone(this.state as State)
  }

  /** Sequence number of the last record in the state; 0 for the initial state. */
  get sequence(): number {
    return this.#sequence
  }

  /**
   * Resolves with the sequence number of the view once the view has folded the record `sequence`:
   * await it with what `append` returned to read your own writes. Without `sequence`, it waits for
   * every record that is in the journal at the call.
   *
   * Calls may overlap.
   *
   * @throws {MiniStoreError} the error that stopped the view, unless the view already holds the
   *   record; `ERR_MINISTORE_CLOSED`; the errors of looking at the journal.
   * @throws {TypeError | RangeError} if an option is invalid.
   * @throws the reason of `signal`.
   */
  async caughtUp(options?: CaughtUpOptions): Promise<number> {
    const { sequence, signal } = caughtUpSettings(options)
    if (this.#closing !== undefined || sequence === undefined) throwIfAborted(this.#stopped.signal)
    if (signal !== undefined) throwIfAborted(signal)
    if (sequence !== undefined) return await this.#folded(sequence, signal)
    const looked = this.#source.lastSequence()
    return await this.#folded(await (signal === undefined ? looked : settledOrAborted(looked, signal)), signal)
  }

  /**
   * Streams the records from `from` (default: the oldest in the journal) to `to`, with their
   * sequence numbers. Each one is given only after the view has folded it. By default the stream
   * ends with the last record that is folded at the call.
   *
   * With `follow`, the stream goes on with later records, until the view is closed or fails. It then
   * still gives what the view has folded, and ends, with the error of the view if it failed. It reads
   * from the journal at the pace of its consumer, so a slow consumer costs no memory. If an open
   * journal is closed, a stream that was never read can no longer read it, and ends with
   * `ERR_MINISTORE_CLOSED`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`. The stream itself ends with `…_SEQUENCE_GONE` if
   *   a record in the range was removed, also where a replica went on with a snapshot.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  changes(options?: JournalRange): ReadableStream<JournalEntry<Mutation>> {
    if (this.#closing !== undefined) throw closedError('The view is closed')
    const given = fields(options, ['from', 'to', 'follow', 'signal']) as JournalRange
    return followedChanges(this.#source.journal, given, {
      sequence: () => this.#sequence,
      folded: (sequence) => this.#folded(sequence),
      stopped: this.#stopped.signal,
      hasJournalEnded: () => this.#hasJournalEnded,
    })
  }

  /**
   * Stops folding. Makes a snapshot if the view has its own and has folded something since the last
   * one, unless the view has failed. A failure of that is told to `snapshots.onError`. Then releases everything. {@link state}
   * stays readable.
   *
   * Further calls return the same promise. Waiting calls of {@link caughtUp} reject with
   * `ERR_MINISTORE_CLOSED`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if a file cannot be closed. The view is closed anyway.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    this.#forgetSignal?.()
    this.#stop(closedError('The view is closed'))
    await this.#running
    await this.#source.close()
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` if the journal is closed. */
  #start(): void {
    this.#running = this.#run(this.#entries())
    const { signal } = this.#settings
    if (signal === undefined) return
    this.#forgetSignal = whenAborted(signal, () => {
      this.#stop(signal.reason)
      // Nobody waits for this close. A later call of close() gets its error.
      this.close().catch(() => {})
    })
  }

  /** Folds until the view stops. Never rejects. */
  async #run(entries: EntryIterator<Mutation>): Promise<void> {
    try {
      await this.#follow(entries)
      this.#hasJournalEnded = true
      this.#stop(closedError('The journal was closed'))
    } catch (error) {
      if (!this.#stopped.signal.aborted || this.#lost !== undefined) return await this.#fail(error)
    }
    if (this.#snapshots?.isBehind(this.#sequence) === true) await this.#createSnapshot()
  }

  async #follow(first: EntryIterator<Mutation>): Promise<void> {
    for (let entries = first; ; entries = this.#entries()) {
      try {
        return await this.#foldAll(entries)
      } catch (error) {
        if (this.#stopped.signal.aborted) throw error
        this.#show(await this.#source.restoreAfter(error, this.#sequence))
      } finally {
        // The first error is the one to report.
        await Promise.resolve(entries.return?.()).catch(() => {})
      }
    }
  }

  #entries(): EntryIterator<Mutation> {
    const { journal } = this.#source
    const { signal } = this.#stopped
    return journal.entries({ from: this.#sequence + 1, follow: true, signal })[Symbol.asyncIterator]()
  }

  async #foldAll(entries: EntryIterator<Mutation>): Promise<void> {
    for (let beganMs = performance.now(); ; ) {
      // A promise for each record would cost a part of the time of folding it, and so would the clock.
      const entry = entries.takeLoaded?.() ?? ((await entries.next()).value as JournalEntry<Mutation> | undefined)
      if (entry === undefined) return
      // The view may have been closed since the journal gave the record.
      throwIfAborted(this.#stopped.signal)
      this.#fold(entry)
      if (this.#snapshots?.isDue(this.#sequence) === true) await this.#createSnapshot()
      if (this.#sequence % 8 !== 0 || performance.now() - beganMs < turnMs) continue
      await turn()
      beganMs = performance.now()
    }
  }

  #fold(entry: JournalEntry<Mutation>): void {
    const { sequence } = entry
    if (sequence !== this.#sequence + 1) throw wrongRecord(this.#sequence + 1, `record ${sequence}`)
    let state: State
    try {
      state = mutate(this.#settings.definition.mutator, this.#state, entry)
    } catch (error) {
      // The mutator may also have closed the view, so that alone does not tell whether the state is whole.
      this.#lost = error as MiniStoreError
      throw error
    }
    this.#show({ state, sequence })
  }

  #show({ state, sequence }: StateAt<State>): void {
    this.#state = state
    this.#sequence = sequence
    if (sequence >= this.#nextAwaited) this.#wake()
  }

  async #createSnapshot(): Promise<void> {
    // Folding waits for this, so the state stays the one at this sequence number.
    await this.#snapshots?.createAutomatically(this.#sequence, async () => {
      await this.#source.settle()
      return this.#state
    })
  }

  async #fail(error: unknown): Promise<void> {
    const isOpen = this.#sequence >= this.#openFrom
    if (isOpen && this.#lost !== undefined) await this.#rebuild()
    this.#stop(error)
    // Otherwise `open` rejects with the error.
    if (isOpen) tell(this.#settings.onError, error)
  }

  /** Rebuilds the state that a mutator may have left half changed. */
  async #rebuild(): Promise<void> {
    try {
      this.#state = await this.#source.past(this.#sequence)
      this.#lost = undefined
    } catch {
      // The state stays lost. The error of the mutator explains more than why it could not be rebuilt.
    }
  }

  #stop(reason: unknown): void {
    if (this.#stopped.signal.aborted) return
    this.#stopped.abort(reason)
    for (const { reject } of this.#waiting) reject(reason)
    this.#waiting.clear()
  }

  /** Resolves with the sequence number of the view once it is at least `sequence`. */
  async #folded(sequence: number, signal?: AbortSignal): Promise<number> {
    if (this.#sequence >= sequence) return this.#sequence
    throwIfAborted(this.#stopped.signal)
    let waiter: Waiter | undefined
    const folded = new Promise<number>((resolve, reject) => {
      waiter = { sequence, resolve, reject }
      this.#waiting.add(waiter)
    })
    this.#nextAwaited = Math.min(this.#nextAwaited, sequence)
    try {
      return await (signal === undefined ? folded : settledOrAborted(folded, signal))
    } finally {
      this.#waiting.delete(waiter as Waiter)
    }
  }

  #wake(): void {
    this.#nextAwaited = Number.POSITIVE_INFINITY
    for (const waiter of this.#waiting) {
      if (waiter.sequence > this.#sequence) {
        this.#nextAwaited = Math.min(this.#nextAwaited, waiter.sequence)
        continue
      }
      this.#waiting.delete(waiter)
      waiter.resolve(this.#sequence)
    }
  }
}

/** Iterates a journal. That of a `MiniStore` also gives records that are loaded already, without a promise. */
type EntryIterator<Mutation> = AsyncIterator<JournalEntry<Mutation>> & {
  readonly takeLoaded?: () => JournalEntry<Mutation> | undefined
}

/** A call that waits until the view has folded a record. */
interface Waiter {
  readonly sequence: number
  readonly resolve: (sequence: number) => void
  readonly reject: (reason: unknown) => void
}

function closedError(message: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_CLOSED', message)
}
