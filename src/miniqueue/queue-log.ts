import PQueue from 'p-queue'

import { addInContext, tell } from '../async.ts'
import { isMiniStoreError, type MiniStoreError } from '../errors.ts'
import { SnapStore } from '../minisnap/index.ts'
import { type CompactionReport, StateManager, type StateOptions, type StateRecovery } from '../ministate/index.ts'
import { directoryPath } from '../ministate/settings.ts'
import { publishMutation } from './channels.ts'
import { Compactor } from './compactor.ts'
import { queuePoisoned } from './queue-errors.ts'
import { emptyQueue, type QueueMutation, type QueueState } from './queue-state.ts'
import type { QueueSettings } from './settings.ts'
import { assertMutation, assertQueue } from './shape.ts'
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
