import { channel } from 'node:diagnostics_channel'

import PQueue from 'p-queue'

import { addInContext, tell } from '../async.ts'
import { isMiniStoreError, type MiniStoreError } from '../errors.ts'
import { SnapStore } from '../minisnap/index.ts'
import { type CompactionReport, StateManager, type StateOptions, type StateRecovery } from '../ministate/index.ts'
import { directoryPath } from '../ministate/settings.ts'
import { queuePoisoned } from './message.ts'
import type { QueueSettings } from './settings.ts'
import { assertMutation, assertQueue } from './shape.ts'
import { emptyQueue, type OneMutation, type QueueMutation, type QueueState, stepsOf } from './state.ts'
import { type Outcome, transition } from './transitions.ts'

type Manager = StateManager<QueueState, QueueMutation>
type ManagerOptions = StateOptions<QueueState, QueueMutation>

/** Is told of what becomes of the state. */
export interface QueueListener {
  /** About how many bytes of JSON the state is. */
  readonly liveBytes: number
  /** A mutation is durable; called in the very step in which the state changes. */
  follow(mutation: QueueMutation, outcome: Outcome): void
  /** Nothing can be written any more. */
  fail(error: MiniStoreError): void
}

/**
 * The durable side of a queue: its state, and turns in which one after another looks at it, decides, and
 * writes down what it has decided. In a turn nobody else writes, so what was decided still holds when it is
 * durable.
 */
export class QueueLog {
  /** Absolute path. */
  readonly directory: string
  readonly state: QueueState
  readonly #manager: Manager
  readonly #applied: Applied
  readonly #onError: QueueSettings['onError']
  readonly #compactor: Compactor
  readonly #turns = new PQueue({ concurrency: 1 })
  readonly #snapshots: SnapStore
  #snapshotBytes = 0
  #failure: MiniStoreError | undefined

  private constructor(parts: {
    readonly directory: string
    readonly manager: Manager
    readonly applied: Applied
    readonly settings: QueueSettings
  }) {
    const { manager, applied, settings } = parts
    this.directory = parts.directory
    // The mutator changes it in place, so it is the same as long as the queue is open.
    this.state = manager.state as QueueState
    this.#manager = manager
    this.#applied = applied
    this.#onError = settings.onError
    // Only looked at: the manager alone writes them.
    this.#snapshots = new SnapStore(parts.directory, { fileSystem: settings.fileSystem })
    this.#compactor = new Compactor({
      limits: settings.compaction,
      baseBytes: bytesBeforeSnapshot(manager),
      tell: (error) => this.tell(error),
      target: {
        get journalBytes() {
          return manager.journalUse.bytes
        },
        get liveBytes() {
          return applied.listener?.liveBytes ?? 0
        },
        compact: async () => {
          try {
            return await manager.compact()
          } finally {
            // One that failed may have left a snapshot more than before.
            await this.#weighSnapshots()
          }
        },
      },
    })
  }

  /** Opens the directory and its lock; rejects as `StateManager.open` does. */
  static async open(directory: string, settings: QueueSettings): Promise<QueueLog> {
    const applied: Applied = {}
    const path = directoryPath(directory)
    const options: ManagerOptions = {
      ...(settings.state as Pick<ManagerOptions, 'journal' | 'snapshots'>),
      fileSystem: settings.fileSystem,
      initialState: emptyQueue,
      // Before it is written: what the mutator refuses afterwards could never be opened again.
      validate: (_state, mutation) => assertMutation(mutation),
      mutator: (state, mutation) => {
        assertQueue(state, path)
        const outcome = transition(state, mutation)
        applied.outcome = outcome
        applied.listener?.follow(mutation, outcome)
      },
    }
    const manager = await StateManager.open<QueueState, QueueMutation>(directory, options)
    try {
      assertQueue(manager.state, path)
      const log = new QueueLog({ directory: path, manager, applied, settings })
      await log.#weighSnapshots()
      return log
    } catch (error) {
      // What went wrong first is what counts.
      await manager.close().catch(() => {})
      throw error
    }
  }

  get recovery(): StateRecovery {
    return this.#manager.recovery
  }

  get bytesOnDisk(): number {
    return this.#manager.journalUse.bytes + this.#snapshotBytes
  }

  /** Whether nothing can be written any more. */
  get hasFailed(): boolean {
    return this.#failure !== undefined
  }

  listen(listener: QueueListener): void {
    this.#applied.listener = listener
  }

  /**
   * Runs a task when all that was called before is done.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` when nothing can be written any more; and what the task
   *   throws.
   */
  inTurn<T>(task: () => Promise<T>): Promise<T> {
    return addInContext(this.#turns, () => {
      if (this.#failure !== undefined) throw queuePoisoned(this.#failure)
      return task()
    })
  }

  /**
   * Writes a mutation and makes it part of the state, and compacts if that is due. Only in a turn. When it
   * rejects the state is as before.
   */
  async commit(mutation: QueueMutation): Promise<Outcome> {
    try {
      await this.#manager.apply(mutation)
    } catch (error) {
      if (isFatal(error)) {
        this.#failure ??= error
        this.#applied.listener?.fail(queuePoisoned(error))
      }
      throw error
    }
    const outcome = this.#applied.outcome as Outcome
    publishMutation(this.directory, mutation, outcome)
    await this.#compactor.compactIfDue()
    return outcome
  }

  async compact(): Promise<CompactionReport> {
    return await this.inTurn(() => this.#compactor.compact())
  }

  /** Tells of what has failed with nobody waiting for it. */
  tell(error: unknown): void {
    // A listener must not fail the call that it happens to be told in.
    tell(this.#onError, error)
  }

  async #weighSnapshots(): Promise<void> {
    try {
      const snapshots = await this.#snapshots.list()
      this.#snapshotBytes = snapshots.reduce((sum, { bytes }) => sum + bytes, 0)
    } catch {
      // It is a number for people, and fails nothing: the old one stays until the next look.
    }
  }

  /** Waits for all turns and frees the lock. */
  async close(): Promise<void> {
    await this.#turns.onIdle()
    await this.#manager.close()
  }
}

/** What the mutator leaves for the one whose turn it is. */
interface Applied {
  outcome?: Outcome
  listener?: QueueListener
}

function isFatal(error: unknown): error is MiniStoreError {
  return isMiniStoreError(
    error, 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MUTATOR',
  )
}

/**
 * How much of the journal the newest snapshot covers, about: or a process that dies often would never
 * compact.
 */
function bytesBeforeSnapshot({ journalUse: { bytes, mutations }, recovery }: Manager): number {
  return mutations === 0 ? bytes : bytes * (1 - recovery.replayed / mutations)
}

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

/** Message of the channels `miniqueue:enqueue`, `miniqueue:deliver` and `miniqueue:ack`. */
export interface QueueEvent {
  /** Absolute path of the queue. */
  readonly directory: string
  readonly ids: readonly number[]
}

/** Message of the channel `miniqueue:nack`: the message comes again. */
export interface NackEvent {
  readonly directory: string
  readonly id: number
  /** When, in milliseconds since 1970; absent: at once. */
  readonly dueAt: number | undefined
  readonly reason: string | undefined
}

/** Message of the channel `miniqueue:dead`: messages have become dead letters. */
export interface DeadEvent extends QueueEvent {
  readonly reason: string
}

const enqueueChannel = channel('miniqueue:enqueue')
const deliverChannel = channel('miniqueue:deliver')
const ackChannel = channel('miniqueue:ack')
const nackChannel = channel('miniqueue:nack')
const deadChannel = channel('miniqueue:dead')

/** Tells of a mutation that is durable; without subscribers it costs a look. */
export function publishMutation(directory: string, mutation: QueueMutation, { added }: Outcome): void {
  for (const step of stepsOf(mutation)) publishStep(directory, step, added)
}

function publishStep(directory: string, step: OneMutation, added: readonly number[]): void {
  if (step.op === 'enqueue' && enqueueChannel.hasSubscribers) {
    enqueueChannel.publish({ directory, ids: added } satisfies QueueEvent)
  } else if (step.op === 'ack' && ackChannel.hasSubscribers) {
    ackChannel.publish({ directory, ids: step.ids } satisfies QueueEvent)
  } else if (step.op === 'nack' && nackChannel.hasSubscribers) {
    const { id, dueAt, reason } = step
    nackChannel.publish({ directory, id, dueAt, reason } satisfies NackEvent)
  } else if (step.op === 'bury' && deadChannel.hasSubscribers) {
    deadChannel.publish({ directory, ids: step.ids, reason: step.reason } satisfies DeadEvent)
  }
}

/** Tells of a delivery; one that was counted before has no mutation of its own. */
export function publishDelivery(directory: string, ids: readonly number[]): void {
  if (deliverChannel.hasSubscribers) deliverChannel.publish({ directory, ids } satisfies QueueEvent)
}
