import { join } from 'node:path'

import PQueue from 'p-queue'

import { addInContext, isThenable } from '../async.ts'
import { MiniStoreError } from '../errors.ts'
import { type Journal, type JournalEntry, type JournalRange, journalUse, type JournalUse } from '../journal/journal.ts'
import { type SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { modelFile } from '../minisnap/settings.ts'
import { fileSystemOf, MiniStore } from '../ministore/ministore.ts'
import { RecordCodec, type SettledRecord } from '../ministore/record-codec.ts'
import { type Fields, fields, integer } from '../options.ts'
import {
  mutate, pastState, type RecoveredState, recoverState, refuseLostJournal, type StateAt, type StateRecovery,
} from './recovery.ts'
import {
  type ApplyOptions, type DeepReadonly, directoryPath, expectedSequenceOf, foreignRecord, journalName, openSettings,
  overSettings, refuseConflict, type StateDefinition, type StateOptions, type StateOverOptions, type StateSettings,
} from './settings.ts'
import { type CompactionReport, compactState, StateSnapshots, StateSoundness } from './snapshots.ts'

/**
 * A state in memory that survives crashes: every mutation is durable in a journal before the state shows it,
 * and snapshots keep opening fast.
 *
 * `State` is what the mutator changes, `Mutation` what it is given, `Input` what `apply` takes; the last two
 * differ only when a schema transforms.
 *
 * All methods may be called at any time and in any number; what they change happens one after another in call
 * order.
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
  readonly #store: SnapStore<State>
  readonly #snapshots: StateSnapshots<State>
  readonly #definition: StateDefinition<State, Mutation>
  readonly #codec: RecordCodec<Mutation, Input>
  readonly #recovery: StateRecovery
  /** Everything that changes something, one at a time. */
  readonly #queue = new PQueue({ concurrency: 1 })
  /** What only reads; `close` waits for it. */
  readonly #readers = new PQueue()
  #state: State
  #sequence: number
  readonly #soundness = new StateSoundness()
  #closing: Promise<void> | undefined

  private constructor(parts: ManagerParts<State, Mutation, Input>) {
    const { recovered, settings } = parts
    this.#journal = parts.journal
    this.#store = parts.snapshots
    this.#snapshots = new StateSnapshots(parts.snapshots, settings, recovered.snapshot)
    this.#definition = settings.definition
    this.#codec = new RecordCodec({ ...settings.mutations, path: parts.path })
    this.#recovery = parts.recovery
    this.#state = recovered.state
    this.#sequence = recovered.sequence
  }

  /**
   * Opens the state in a directory, `journal.jsonl` and `snapshot-<sequence>.json`, making what is missing,
   * and rebuilds it: from the newest whole snapshot and the mutations after it only. A half-written snapshot
   * of a crash is removed, a damaged one passed over; {@link recovery} tells.
   *
   * When it resolves the state holds every acknowledged mutation once, and all that it holds is durable.
   *
   * @throws {MiniStoreError} what `MiniStore.open` and `SnapStore.restore` do; `ERR_MINISTORE_SNAPSHOT_AHEAD`
   *   or `…_STATE_GAP` when journal and snapshots do not fit together; `…_MUTATOR` when the mutator throws
   *   for a mutation. The lock is freed again.
   * @throws {TypeError | RangeError} for options that are none.
   */
  static async open<State, Mutation, Input = Mutation>(
    directory: string,
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
      // Should the directory be replaced, no snapshot is written into the one that is there then.
      const fileSystem = fileSystemOf(journal)
      const snapshotOptions: Fields = { ...settings.snapshots, fileSystem, [modelFile]: journalPath }
      const snapshots = new SnapStore<State>(path, snapshotOptions)
      const recovered = await recoverState(journal, snapshots, settings.definition)
      const recovery = { ...recovered.recovery, journal: journal.recovery }
      return new StateManager({ journal, snapshots, settings, recovered, recovery, path: journal.path })
    } catch (error) {
      // What went wrong first is what counts.
      await journal.close().catch(() => {})
      throw error
    }
  }

  /**
   * As {@link open}, over a journal and a snapshot store that are there already. From here on the manager alone may
   * append to the one, drop from it, and write to the other: a `MiniStore` must have no `maxSegments`, and a schema of
   * the snapshots must give what it is given. `close()` closes the journal; when this rejects it stays open.
   */
  static async over<State, Mutation, Input = Mutation>(
    journal: Journal<Mutation, Input>,
    snapshots: SnapStore<State>,
    options: StateOverOptions<State, Mutation, Input>,
  ): Promise<StateManager<State, Mutation, Input>> {
    const settings = overSettings<State, Mutation>(options)
    const recovered = await recoverState(journal, snapshots, settings.definition)
    const recovery = { ...recovered.recovery, journal: undefined }
    return new StateManager({ journal, snapshots, settings, recovered, recovery })
  }

  /**
   * The state now: all acknowledged mutations and nothing else. It is the very object that the mutator works
   * on, so it changes with the next mutation; it must not be changed otherwise. Stays readable after
   * `close()`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` after a mutator that threw, which may have left it half
   *   changed.
   */
  get state(): DeepReadonly<State> {
    this.#soundness.assertState()
    return this.#state as DeepReadonly<State>
  }

  /**
   * A deep copy of the state now (`structuredClone`), which is the caller's own. @throws as {@link state}.
   */
  snapshot(): State {
    return structuredClone(this.state as State)
  }

  /** Sequence number of the last mutation in the state; 0 for the initial state. */
  get sequence(): number {
    return this.#sequence
  }

  /** What the journal has, and takes on the disk, now. */
  get journalUse(): JournalUse {
    return journalUse(this.#journal)
  }

  /** What opening found and did. */
  get recovery(): StateRecovery {
    return this.#recovery
  }

  /**
   * Validates a mutation, appends it to the journal, makes it part of the state, and resolves with its
   * sequence number.
   *
   * The mutation is serialized before this returns; what happens to the object afterwards changes nothing.
   * `validate` and `mutator` get it as it will be read back. Calls may overlap; they are done in call order.
   *
   * When it rejects nothing is written and the state is as before, but for `ERR_MINISTORE_OUTCOME_UNKNOWN`
   * (the mutation may be there when the state is opened anew) and `…_MUTATOR` (it is). After both only
   * `close()` works.
   *
   * @throws whatever `validate` throws, as it is.
   * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_CONFLICT` when the state is not at `expectedSequence`;
   *   `…_MUTATOR`; and what `MiniStore.append` does.
   */
  async apply(mutation: Input, options?: ApplyOptions): Promise<number> {
    this.#assertUsable()
    const expected = expectedSequenceOf(options)
    const settled = this.#codec.settle(mutation)
    return await this.#inTurn(() => this.#apply(settled, expected))
  }

  /**
   * Writes a snapshot of the state when its turn has come, unless the newest one is of it, and resolves when
   * it is durable. A crash before leaves the snapshots there were.
   *
   * @throws {MiniStoreError} what `SnapStore.create` does; the manager is usable all the same.
   */
  async createSnapshot(): Promise<SnapshotInfo> {
    return await this.#inTurn(() => this.#snapshots.create(this.#now))
  }

  /**
   * Makes a snapshot and drops from the journal what the oldest kept snapshot that is whole covers, so that
   * every kept one can still be fallen back to. Whole segments go; to begin with, the active one is sealed.
   * Without changes since the last time it writes nothing.
   *
   * A crash in the middle leaves a state that opens as it was.
   *
   * @throws {MiniStoreError} what `createSnapshot`, `MiniStore.rotate` and `truncateBefore` do.
   */
  async compact(): Promise<CompactionReport> {
    return await this.#inTurn(() => compactState(this.#journal, this.#snapshots, this.#now, this.#soundness))
  }

  /**
   * The state as it was after a mutation; 0 gives the initial one. It is rebuilt, from the nearest snapshot
   * before and the mutations since, and is the caller's own. `close()` waits for it, snapshots for its first part.
   *
   * @throws {RangeError} beyond {@link sequence}.
   * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_GONE` when a compaction has dropped what it would be
   *   rebuilt from.
   */
  async stateAt(sequence: number): Promise<State> {
    this.#assertUsable()
    const wanted = integer('sequence', sequence, { least: 0 })
    if (wanted > this.#sequence) {
      throw new RangeError(`Expected a sequence number of at most ${this.#sequence}, got ${wanted}`)
    }
    const sources = { journal: this.#journal, snapshots: this.#store, definition: this.#definition }
    return await addInContext(this.#readers, () => pastState(sources, wanted))
  }

  /**
   * The mutations from `from` to `to` with their sequence numbers, by default all that the journal still has;
   * with `follow` also those to come, once they are durable. As `MiniStore.entries`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, `ERR_MINISTORE_POISONED`; the stream itself ends with
   *   `…_SEQUENCE_GONE` when a mutation of the range was dropped.
   */
  changes(options?: JournalRange): ReadableStream<JournalEntry<Mutation>> {
    this.#assertUsable()
    const { from, to, follow, signal } = fields(options, ['from', 'to', 'follow', 'signal']) as JournalRange
    return this.#journal.entries({ from, to, follow, signal })
  }

  /**
   * Waits for what was called before, closes the journal and frees its lock. Further calls give the same
   * promise; those of other methods are refused. {@link state} stays readable.
   *
   * @throws {MiniStoreError} what `MiniStore.close` does; it is closed all the same.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    await Promise.all([this.#queue.onIdle(), this.#readers.onIdle()])
    await this.#journal.close()
  }

  get #now(): StateAt<State> {
    return { state: this.#state, sequence: this.#sequence }
  }

  async #apply(settled: SettledRecord<Mutation>, expected: number | undefined): Promise<number> {
    const record = isThenable(settled.read) ? await settled.read : settled.read
    refuseConflict(expected, this.#sequence)
    const { validate, mutator } = this.#definition
    await validate?.(this.#state as DeepReadonly<State>, record)
    const sequence = await this.#soundness.guard(this.#journal.append(settled.stored as Input))
    const next = this.#sequence + 1
    if (sequence !== next) throw this.#soundness.poison(foreignRecord(next, sequence))
    try {
      this.#state = mutate(mutator, this.#state, { sequence, record })
    } catch (error) {
      throw this.#soundness.loseState(error as MiniStoreError)
    }
    this.#sequence = sequence
    if (this.#snapshots.isDue(sequence)) await this.#snapshots.createAutomatically(this.#now)
    return sequence
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    // Once more: the mutation's own toJSON, its schema or its codec may have closed the manager.
    this.#assertUsable()
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
  readonly snapshots: SnapStore<State>
  readonly settings: StateSettings<State, Mutation>
  readonly recovered: RecoveredState<State>
  readonly recovery: StateRecovery
  /** The journal's, for errors. */
  readonly path?: string
}
