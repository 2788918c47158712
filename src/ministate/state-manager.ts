import { join } from 'node:path'

import PQueue from 'p-queue'

import { addInContext, isThenable } from '../async.ts'
import { MiniStoreError, sequenceConflict } from '../errors.ts'
import {
  type AppendedRange, type Journal, type JournalEntry, type JournalRange, journalUse, type JournalUse,
} from '../journal/journal.ts'
import type { SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
import { SnapStore } from '../minisnap/index.ts'
import { modelFile } from '../minisnap/settings.ts'
import { fileSystemOf, MiniStore } from '../ministore/ministore.ts'
import { RecordCodec, type FrozenRecord } from '../journal/record-codec.ts'
import { expectedSequenceOf, type Fields, fields, integer, iterable } from '../options.ts'
import type { KeptByJson } from '../schema.ts'
import {
  mutate, pastState, type RecoveredState, recoverState, refuseLostJournal, type StateAt, type StateRecovery, tryOut,
} from './recovery.ts'
import {
  type ApplyOptions, type DeepReadonly, directoryPath, journalName, type MutationForm, openSettings, overSettings,
  type StateDefinition, type StateOptions, type StateOverOptions, type StateSettings,
} from './settings.ts'
import { type CompactionReport, compactState, type InTurn, StateSnapshots, StateSoundness } from './snapshots.ts'

/**
 * A state in memory that survives crashes. Every mutation is durable in a journal before the state
 * shows it. Snapshots keep the time to open short.
 *
 * **Invariant.** The state is the fold of all acknowledged mutations, in order, each applied once.
 * When memory and journal may differ, the manager refuses every call except `close()`.
 *
 * `State` is the type that the mutator changes. `Mutation` is the type that the mutator gets, and
 * `Input` is the type that `apply` takes. The last two differ only when a schema transforms.
 *
 * Calls to any methods may overlap. Changes happen one after another, in call order.
 *
 * ```ts
 * await using counter = await StateManager.open('counter', {
 *   initialState: () => ({ value: 0 }),
 *   mutator: (state, { by }: { by: number }) => {
 *     state.value += by
 *   },
 * })
 * await counter.apply({ by: 10 })
 * ```
 */
export class StateManager<State, Mutation = unknown, Input = Mutation> implements AsyncDisposable {
  readonly #journal: Journal<Mutation, Input>
  readonly #store: Snapshots<State>
  readonly #snapshots: StateSnapshots<State>
  readonly #definition: StateDefinition<State, Mutation>
  readonly #copyOf: (state: State) => State
  readonly #codec: RecordCodec<Mutation, Input>
  readonly #recovery: StateRecovery
  /** Runs every change, one at a time. */
  readonly #queue = new PQueue({ concurrency: 1 })
  /** Tracks calls that only read, so that `close` can wait for them. */
  readonly #readers = new PQueue()
  #state: State
  #sequence: number
  readonly #soundness = new StateSoundness()
  #closing: Promise<void> | undefined

  private constructor({ journal, snapshots, settings, recovered, path }: ManagerParts<State, Mutation, Input>) {
    this.#journal = journal
    this.#store = snapshots
    this.#snapshots = new StateSnapshots(snapshots, settings, recovered.snapshot, journal)
    this.#definition = settings.definition
    this.#copyOf = settings.copyOf
    this.#codec = new RecordCodec({ ...settings.mutations, path })
    this.#recovery = recovered.recovery
    this.#state = recovered.state
    this.#sequence = recovered.sequence
  }

  /**
   * Opens the state in a directory and rebuilds it. The directory and its files are created if they
   * are missing: the journal `journal.jsonl` and the snapshots `snapshot-<sequence>.json`.
   *
   * The state is rebuilt from the newest whole snapshot and only the mutations after it. Snapshots
   * that a crash left half-written are removed. Damaged snapshots are skipped and reported in
   * {@link recovery}.
   *
   * When it resolves, the state holds every acknowledged mutation once, and everything in the state
   * is durable. When it rejects, it holds no lock.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`, `…_FOREIGN_JOURNAL` or `…_STATE_GAP` if
   *   journal and snapshots do not fit together; `…_MUTATOR` if the mutator throws for a mutation; and the
   *   errors of `MiniStore.open` and `SnapStore.restore`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  static open<State, Mutation, Input>(
    directory: string | URL,
    options: StateOptions<State, Mutation, Input> & MutationForm<Input, Mutation>,
  ): Promise<StateManager<State, Mutation, Input>>
  /** With mutations of a type that {@link KeptByJson} checks: they are stored as JSON. */
  static open<State, Mutation extends KeptByJson<Mutation>>(
    directory: string | URL,
    options: StateOptions<State, Mutation>,
  ): Promise<StateManager<State, Mutation>>
  static async open<State, Mutation, Input>(
    directory: string | URL,
    options: StateOptions<State, Mutation, Input>,
  ): Promise<StateManager<State, Mutation, Input>> {
    const settings = openSettings<State, Mutation>(options)
    const path = directoryPath(directory)
    const journalPath = join(path, journalName)
    const found = new SnapStore<State>(path, settings.snapshots)
    await refuseLostJournal(settings.journal.fileSystem, journalPath, found)
    const opened: unknown = await MiniStore.open(journalPath, settings.journal)
    const journal = opened as MiniStore<Mutation, Input>
    try {
      // The guarded file system refuses to change names once the directory has been replaced, so no
      // snapshot ends up in the directory that took its place.
      const fileSystem = fileSystemOf(journal)
      const snapshotOptions: Fields = { ...settings.snapshots, fileSystem, [modelFile]: journalPath }
      const snapshots = new SnapStore<State>(path, snapshotOptions)
      const recovered = await recoverState(journal, snapshots, settings.definition, journal.recovery)
      return new StateManager({ journal, snapshots, settings, recovered, path: journal.path })
    } catch (error) {
      // The first error is the one to report.
      await journal.close().catch(() => {})
      throw error
    }
  }

  /**
   * Works like {@link open}, over an existing journal and snapshot store: a `MiniStore` and a
   * `SnapStore`, or anything else that keeps the promises of the two interfaces.
   *
   * From here on, only this manager may append to the journal, drop records from it, and write
   * snapshots. If something else appends, the next change is refused and the manager only closes:
   * with `ERR_MINISTORE_FENCED` if the journal tells writers apart, else with `…_POISONED`, or with
   * `…_OUTCOME_UNKNOWN` if the journal does not know `expectedSequence`. While opening, another
   * writer may still append and compact. A `MiniStore` must be opened without `maxSegments`. A schema of the snapshot store
   * must return its input unchanged. `close()` closes the journal. If this call rejects, the
   * journal stays open.
   *
   * @throws {MiniStoreError} as {@link open}, apart from the errors of opening a journal.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  static async over<State, Mutation, Input = Mutation>(
    journal: Journal<Mutation, Input>,
    snapshots: Snapshots<State>,
    options: StateOverOptions<State, Mutation, Input>,
  ): Promise<StateManager<State, Mutation, Input>> {
    const settings = overSettings<State, Mutation>(options)
    const recovered = await recoverState(journal, snapshots, settings.definition, undefined)
    return new StateManager({ journal, snapshots, settings, recovered })
  }

  /**
   * The current state: all acknowledged mutations and nothing else. It stays readable after
   * `close()`.
   *
   * This is the object that the mutator works on, so it changes with the next mutation. Do not
   * change it yourself.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` after a mutator threw, because the mutator
   *   may have left the state half changed.
   */
  get state(): DeepReadonly<State> {
    this.#soundness.assertState()
    return this.#state as DeepReadonly<State>
  }

  /**
   * Returns a deep copy of the current state (`structuredClone`). The copy is yours to change.
   *
   * @throws {MiniStoreError} as {@link state}.
   */
  snapshot(): State {
    return structuredClone(this.state as State)
  }

  /** Sequence number of the last mutation in the state; 0 for the initial state. */
  get sequence(): number {
    return this.#sequence
  }

  /** The number of mutations in the journal and the bytes that the journal takes on disk. */
  get journalUse(): JournalUse {
    return journalUse(this.#journal)
  }

  /** What opening found and did. */
  get recovery(): StateRecovery {
    return this.#recovery
  }

  /**
   * Validates a mutation, appends it to the journal, applies it to the state, and resolves with its
   * sequence number. The mutation is then on stable storage.
   *
   * The mutation is serialized before this call returns, so later changes to the object have no
   * effect. `validate` and `mutator` get a copy, as it will be read back from the journal. Calls
   * may overlap; they run in call order.
   *
   * When it rejects, nothing is written and the state is unchanged, with two exceptions. After
   * `ERR_MINISTORE_OUTCOME_UNKNOWN`, the mutation may be there when the state is reopened. After
   * `…_MUTATOR`, the mutation is in the journal. After either error, only `close()` works.
   *
   * @throws whatever `validate` throws, unchanged.
   * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_CONFLICT` if the state is not at
   *   `expectedSequence`; `…_MUTATOR` if the mutator throws or returns a promise; `…_FENCED` or
   *   `…_POISONED` if another writer has changed the journal; and the errors of `MiniStore.append`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async apply(mutation: Input, options?: ApplyOptions): Promise<number> {
    this.#assertUsable()
    const expected = expectedSequenceOf(options)
    const settled = this.#codec.freeze(mutation)
    return await this.#inTurn(() => this.#apply(settled, expected))
  }

  /**
   * Applies many mutations with one write and one fsync, all of them or none. Resolves with the
   * range of their sequence numbers. If there are none, the range is empty: `last` is `first - 1`.
   *
   * Otherwise works like {@link apply}. `validate` gets each mutation with the state that those
   * before it would make. If one is refused, none is written and the state is unchanged. Readers of
   * the state never see a part of them. A crash before this call resolves may leave a prefix of them,
   * as `appendAll` of the journal may.
   *
   * The states for `validate` are made on a copy, whether the mutator changes a state or returns
   * a new one. So with `validate` and two or more mutations, the call copies the whole state once, and
   * all mutations are encoded and applied twice. Otherwise nothing is copied. The copy
   * is made with the codec of the snapshots, or without one by `structuredClone`: instances of
   * classes lose their methods in it. A state over another log is copied by `structuredClone`.
   *
   * @throws whatever `validate` throws, unchanged, and whatever the mutator throws for the copy.
   *   Nothing is written then, and the manager stays usable.
   * @throws {MiniStoreError} as {@link apply}; and `ERR_MINISTORE_NOT_SERIALIZABLE` or `…_CODEC` if
   *   the state cannot be copied. Nothing is written.
   * @throws {TypeError} if `mutations` is not iterable, or if the journal has no `appendAll`. Single
   *   appends would not be all or nothing.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async applyAll(mutations: Iterable<Input>, options?: ApplyOptions): Promise<AppendedRange> {
    this.#assertUsable()
    if (this.#journal.appendAll === undefined) {
      throw new TypeError('Expected a journal with `appendAll`, which applyAll needs to write all mutations or none')
    }
    const expected = expectedSequenceOf(options)
    const settled = Array.from(iterable('mutations', mutations), (mutation) => this.#codec.freeze(mutation))
    return await this.#inTurn(() => this.#applyAll(settled, expected))
  }

  /**
   * Writes a snapshot of the state and resolves when the snapshot is durable. Writes nothing if the
   * newest snapshot already holds this state.
   *
   * The call waits for its turn among the changes, so calls may overlap. Later changes wait until the
   * snapshot is written, or with `capture`, only until the state is captured. A crash before the call
   * resolves leaves the earlier snapshots intact.
   *
   * @throws {MiniStoreError} the errors of `SnapStore.create`, and `ERR_MINISTORE_SNAPSHOT_AHEAD` if
   *   another manager has made a newer snapshot. The manager stays usable.
   * @throws whatever `capture` throws. The manager stays usable.
   */
  async createSnapshot(): Promise<SnapshotInfo> {
    const { written } = await this.#inTurn(() => this.#snapshots.begin(this.#now, (at) => this.#snapshots.create(at)))
    return await written
  }

  /**
   * Makes a snapshot, then drops the records that the oldest kept whole snapshot covers. Every kept
   * whole snapshot can therefore still be used as a fallback.
   *
   * The journal drops whole segments only, so the active segment is sealed first. If nothing has
   * changed since the last compaction, nothing is written. Changes wait as for {@link createSnapshot}.
   * A crash at any point leaves a state that opens as it was.
   *
   * @throws the errors of `createSnapshot`, `MiniStore.rotate` and `MiniStore.truncateBefore`.
   */
  async compact(): Promise<CompactionReport> {
    const guarded: InTurn = (task) => this.#soundness.guard(task)
    const { written } = await this.#inTurn(async () => {
      await guarded(async () => await this.#journal.rotate?.())
      return await this.#snapshots.begin(this.#now, (at, isBeside) =>
        compactState(this.#journal, this.#snapshots, at, isBeside ? (task) => this.#addTurn(() => guarded(task)) : guarded),
      )
    })
    return await written
  }

  /**
   * Returns the state as it was after the given mutation; 0 gives the initial state.
   *
   * The state is rebuilt from the nearest earlier snapshot and the mutations after it, and is yours
   * to change. `close()` waits for this call. Snapshots wait while this call reads its snapshot.
   *
   * @throws {TypeError | RangeError} if `sequence` is not a whole number from 0 to the sequence
   *   number of the current state.
   * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_GONE` if a compaction has dropped records that
   *   the state would be rebuilt from; `…_FOREIGN_JOURNAL` if the nearest earlier snapshot belongs to
   *   another journal; and the errors of `SnapStore.restore` and `MiniStore.entries`.
   */
  async stateAt(sequence: number): Promise<State> {
    this.#assertUsable()
    const wanted = integer('sequence', sequence, { min: 0 })
    if (wanted > this.#sequence) {
      throw new RangeError(`Expected a sequence number of at most ${this.#sequence}, got ${wanted}`)
    }
    return await addInContext(this.#readers, () => pastState(this.#journal, this.#store, this.#definition, wanted))
  }

  /**
   * Streams the durable mutations from `from` to `to`, with their sequence numbers. By default
   * these are all mutations that the journal still has. With `follow`, the stream continues with
   * new mutations once they are durable. See `MiniStore.entries`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` or `ERR_MINISTORE_POISONED`. The stream itself
   *   ends with `…_SEQUENCE_GONE` if a mutation in the range was dropped.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  changes(options?: JournalRange): ReadableStream<JournalEntry<Mutation>> {
    this.#assertUsable()
    const { from, to, follow, signal } = fields(options, ['from', 'to', 'follow', 'signal']) as JournalRange
    return this.#journal.entries({ from, to, follow, signal })
  }

  /**
   * Waits for all earlier calls and for a snapshot that is being written, closes the journal, and
   * releases its lock. {@link state} stays readable.
   *
   * Further calls to `close` return the same promise. Calls to other methods are refused.
   *
   * @throws {MiniStoreError} the errors of `MiniStore.close`. The manager is closed anyway.
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
    await Promise.all([this.#queue.onIdle(), this.#readers.onIdle()])
    // Only turns begin snapshots. Compactions under way may still wait for turns of their own.
    await this.#snapshots.onIdle()
    await this.#journal.close()
  }

  get #now(): StateAt<State> {
    return { state: this.#state, sequence: this.#sequence }
  }

  async #apply(settled: FrozenRecord<Mutation>, expected: number | undefined): Promise<number> {
    const record = isThenable(settled.read) ? await settled.read : settled.read
    this.#refuseConflict(expected)
    await this.#definition.validate?.(this.#state as DeepReadonly<State>, record)
    const stored = settled.stored as Input
    const expectedSequence = this.#sequence
    const sequence = await this.#soundness.guard(() => this.#journal.append(stored, { expectedSequence }))
    const next = expectedSequence + 1
    if (sequence !== next) throw this.#soundness.poison(foreignRecord(next, sequence))
    this.#mutate(record)
    await this.#snapshots.makeIfDue(this.#now)
    return sequence
  }

  async #applyAll(settled: ReadonlyArray<FrozenRecord<Mutation>>, expected: number | undefined): Promise<AppendedRange> {
    const records = await Promise.all(settled.map(({ read }) => read))
    this.#refuseConflict(expected)
    await this.#validateAll(settled, records)
    const expectedSequence = this.#sequence
    const range = { first: expectedSequence + 1, last: expectedSequence + records.length }
    if (records.length === 0) return range
    const stored = settled.map((one) => one.stored as Input)
    const journal = this.#journal as Required<Journal<Mutation, Input>>
    const { first, last } = await this.#soundness.guard(() => journal.appendAll(stored, { expectedSequence }))
    if (first !== range.first || last !== range.last) throw this.#soundness.poison(foreignRecord(range.first, first))
    // In one synchronous step, so no reader of the state sees a part.
    for (const record of records) this.#mutate(record)
    await this.#snapshots.makeIfDue(this.#now)
    return range
  }

  /** Validates each mutation with the state that those before it would make. */
  async #validateAll(settled: ReadonlyArray<FrozenRecord<Mutation>>, records: readonly Mutation[]): Promise<void> {
    const { validate, mutator } = this.#definition
    if (validate === undefined) return
    let state = this.#state
    for (const [index, { stored }] of settled.entries()) {
      await validate(state as DeepReadonly<State>, records[index] as Mutation)
      if (settled.length === 1) return
      if (index === 0) state = this.#copyOf(this.#state)
      // Decoded once more: a mutator may put the mutation into the state, and change it there.
      const copy = await this.#codec.freeze(stored as Input).read
      state = tryOut(mutator, state, { sequence: this.#sequence + index + 1, record: copy })
    }
  }

  /** Makes the next mutation part of the state. It must be in the journal. */
  #mutate(record: Mutation): void {
    const { mutator } = this.#definition
    const sequence = this.#sequence + 1
    try {
      this.#state = mutate(mutator, this.#state, { sequence, record })
    } catch (error) {
      throw this.#soundness.loseState(error as MiniStoreError)
    }
    this.#sequence = sequence
  }

  #refuseConflict(expected: number | undefined): void {
    const sequence = this.#sequence
    if (expected === undefined || expected === sequence) return
    throw sequenceConflict('the state', { expectedSequence: expected, sequence })
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    // Check again: the mutation's `toJSON`, the schema or the codec may have closed the manager.
    this.#assertUsable()
    return this.#addTurn(task)
  }

  #addTurn<T>(task: () => Promise<T>): Promise<T> {
    return addInContext(this.#queue, () => {
      this.#soundness.assert()
      return task()
    })
  }

  #assertUsable(): void {
    if (this.#closing === undefined) this.#soundness.assert()
    else throw new MiniStoreError('ERR_MINISTORE_CLOSED', 'The state manager is closed')
  }
}

interface ManagerParts<State, Mutation, Input> {
  readonly journal: Journal<Mutation, Input>
  readonly snapshots: Snapshots<State>
  readonly settings: StateSettings<State, Mutation>
  readonly recovered: RecoveredState<State>
  /** The journal's path, for error messages. */
  readonly path?: string
}

/** The error for a mutation that did not get the next sequence number from the journal. */
function foreignRecord(expected: number, sequence: number): MiniStoreError {
  const got = `Expected the journal to give the mutation the sequence number ${expected}, got ${sequence}`
  const message = `${got}: something else appends to the journal`
  return new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { sequence })
}
