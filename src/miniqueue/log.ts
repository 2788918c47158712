import { channel } from 'node:diagnostics_channel'

import PQueue from 'p-queue'

import { addInContext, tell } from '../async.ts'
import { hasCode, type MiniStoreError, poisonedBy } from '../errors.ts'
import { SnapStore } from '../minisnap/index.ts'
import { type CompactionReport, StateManager, type StateOptions, type StateRecovery } from '../ministate/index.ts'
import { directoryPath } from '../ministate/settings.ts'
import { SerializedRecord } from '../schema.ts'
import { Messages } from './messages.ts'
import type { QueueSettings } from './settings.ts'
import { applyMutation, assertMutation, assertQueue } from './shape.ts'
import { emptyQueue, type Outcome, type QueueMutation, type QueueState, stepsOf } from './state.ts'

type Manager = StateManager<QueueState, QueueMutation, SerializedRecord<QueueMutation>>
type ManagerOptions = StateOptions<QueueState, QueueMutation>

/**
 * The durable side of a queue: its state, and the turns that change it. In a turn, one call looks
 * at the state, decides, and writes its decision. Turns run one at a time.
 *
 * Invariant: during a turn no other call writes. So a decision still holds when it is durable.
 */
export class QueueLog {
  /** Absolute path of the queue's directory. */
  readonly directory: string
  readonly state: QueueState
  readonly messages: Messages
  /**
   * Called when a mutation is durable, in the same synchronous step that changes the state and the
   * messages.
   */
  onChange: () => void = () => {}
  /** Called when nothing can be written any more. */
  onFailure: (error: MiniStoreError) => void = () => {}
  /** What happened since the queue was opened. */
  readonly counts: Counts = { enqueued: 0, acked: 0, failed: 0, dead: 0 }
  readonly #manager: Manager
  readonly #settings: QueueSettings
  /** Those who wait until no message waits or is in flight. */
  readonly #idle = new Set<{ readonly resolve: () => void; readonly reject: (error: MiniStoreError) => void }>()
  readonly #turns = new PQueue({ concurrency: 1 })
  readonly #snapshots: SnapStore
  #snapshotBytes = 0
  #failure: MiniStoreError | undefined
  /** What the last mutation has changed. */
  #outcome: Outcome | undefined
  /** Bytes of the journal right after the last compaction. */
  #compactedBytes: number
  /** After a failed compaction, the bytes of the journal at which it is retried. */
  #againAtBytes = 0

  private constructor(directory: string, manager: Manager, settings: QueueSettings) {
    this.directory = directory
    // The mutator changes the state in place, so this reference stays valid until the queue closes.
    this.state = manager.state as QueueState
    const { clock, maxAttempts, visibilityTimeoutMs } = settings
    const endsAt = clock.monotonicMs() + visibilityTimeoutMs
    this.messages = new Messages(this.state, { wallMs: clock.wallMs(), maxAttempts, endsAt })
    this.#manager = manager
    this.#settings = settings
    // Used for reading only: the manager alone writes snapshots.
    this.#snapshots = new SnapStore(directory, { fileSystem: settings.fileSystem })
    this.#compactedBytes = bytesBeforeSnapshot(manager)
  }

  /**
   * Opens the directory and takes its lock. If it rejects, the lock is free again.
   *
   * @throws {MiniStoreError} the errors of `StateManager.open`; `ERR_MINISTORE_CORRUPT` if the
   *   state is not that of a queue.
   */
  static async open(directory: string | URL, settings: QueueSettings): Promise<QueueLog> {
    // Set after the replay, because the messages are indexed only then.
    let log: QueueLog | undefined
    const path = directoryPath(directory)
    const options: ManagerOptions = {
      ...(settings.state as Pick<ManagerOptions, 'journal' | 'snapshots'>),
      fileSystem: settings.fileSystem,
      initialState: emptyQueue,
      // Checked before the write: a journal with a mutation that the mutator refuses could never be
      // opened again.
      validate: (_state, mutation) => assertMutation(mutation),
      mutator: (state, mutation) => {
        const outcome = applyMutation(state, mutation, path)
        if (log !== undefined) log.#follow(mutation, outcome)
      },
    }
    // It takes serialized mutations too, which its type does not say.
    const opened: unknown = await StateManager.open(directory, options)
    const manager = opened as Manager
    try {
      assertQueue(manager.state, path)
      log = new QueueLog(path, manager, settings)
      await log.#weighSnapshots()
      return log
    } catch (error) {
      // The first error is the cause, so an error of closing does not replace it.
      await manager.close().catch(() => {})
      throw error
    }
  }

  get recovery(): StateRecovery {
    return this.#manager.recovery
  }

  get bytesOnDisk(): number {
    return this.#journalBytes + this.#snapshotBytes
  }

  /** Whether nothing can be written any more. */
  get hasFailed(): boolean {
    return this.#failure !== undefined
  }

  /**
   * Runs a task in a turn of its own, once all earlier turns are done.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` if nothing can be written any more.
   * @throws the error of the task.
   */
  inTurn<T>(task: () => Promise<T>): Promise<T> {
    return addInContext(this.#turns, () => {
      if (this.#failure !== undefined) throw queuePoisoned(this.#failure)
      return task()
    })
  }

  /**
   * Writes a mutation, applies it to the state, and compacts if that is due. Resolves once the
   * mutation is durable. If it rejects, the state is unchanged. Must be called in a turn.
   *
   * @param text the mutation as JSON.
   */
  async commit(mutation: QueueMutation, text: string = JSON.stringify(mutation)): Promise<Outcome> {
    try {
      await this.#manager.apply(new SerializedRecord(text, mutation))
    } catch (error) {
      if (isFatal(error)) {
        this.#failure ??= error
        this.#endIdle(queuePoisoned(error))
        this.onFailure(queuePoisoned(error))
      }
      throw error
    }
    const outcome = this.#outcome as Outcome
    publishMutation(this.directory, mutation, outcome)
    await this.#compactIfDue()
    return outcome
  }

  async compact(): Promise<CompactionReport> {
    return await this.inTurn(() => this.#compact())
  }

  /** Reports a failure that no call waits for. */
  tell(error: unknown): void {
    // This `tell` never throws, so `onError` cannot fail the call that happens to report.
    tell(this.#settings.onError, error)
  }

  /** Resolves when no message waits or is in flight, at once if there is none. Rejects with `error` of {@link close}. */
  async idle(): Promise<void> {
    if (this.#failure !== undefined) throw queuePoisoned(this.#failure)
    if (this.messages.depth > 0) await new Promise<void>((resolve, reject) => this.#idle.add({ resolve, reject }))
  }

  /**
   * Waits for all turns and frees the lock.
   *
   * @param error for calls of {@link idle} that still wait then.
   */
  async close(error?: MiniStoreError): Promise<void> {
    await this.#turns.onIdle()
    if (error !== undefined) this.#endIdle(error)
    await this.#manager.close()
  }

  get #journalBytes(): number {
    return this.#manager.journalUse.bytes
  }

  #follow(mutation: QueueMutation, outcome: Outcome): void {
    this.#outcome = outcome
    this.messages.follow(mutation, outcome)
    count(this.counts, mutation)
    if (this.messages.depth === 0) this.#endIdle()
    this.onChange()
  }

  #endIdle(error?: MiniStoreError): void {
    const waits = [...this.#idle]
    this.#idle.clear()
    for (const { resolve, reject } of waits) {
      if (error === undefined) resolve()
      else reject(error)
    }
  }

  /** Compacts now, and counts the growth of the journal from here. */
  async #compact(): Promise<CompactionReport> {
    try {
      const report = await this.#manager.compact()
      this.#compactedBytes = this.#journalBytes
      this.#againAtBytes = 0
      return report
    } finally {
      // A failed compaction may have left one more snapshot.
      await this.#weighSnapshots()
    }
  }

  /**
   * Compacts if the journal has grown by more than both limits. Never rejects for a failed
   * compaction: the failure is reported, and retried once the journal is `minBytes` longer.
   *
   * Right after a compaction, the disk holds two snapshots, by default, and the records since the
   * older one. Each period between two compactions adds the larger of `minBytes` and `ratio` times
   * the live bytes. So all files together stay below about `2 × (1 + ratio)` times the live bytes.
   * With few live bytes, the limit is `2 × minBytes` higher.
   */
  async #compactIfDue(): Promise<void> {
    const { minBytes, ratio } = this.#settings.compaction
    const bytes = this.#journalBytes
    const growth = bytes - this.#compactedBytes
    if (growth <= Math.max(minBytes, ratio * this.messages.bytes) || bytes < this.#againAtBytes) return
    try {
      await this.#compact()
    } catch (error) {
      this.#againAtBytes = this.#journalBytes + minBytes
      this.tell(error)
    }
  }

  async #weighSnapshots(): Promise<void> {
    try {
      const snapshots = await this.#snapshots.list()
      this.#snapshotBytes = snapshots.reduce((sum, { bytes }) => sum + bytes, 0)
    } catch {
      // This number is for people only, so an error is harmless: the old number stays until the
      // next look.
    }
  }
}

/** Numbers of what happened to messages. */
export type Counts = Record<'enqueued' | 'acked' | 'failed' | 'dead', number>

function count(counts: Counts, mutation: QueueMutation): void {
  let refunded: readonly number[] = []
  for (const step of stepsOf(mutation)) {
    if (step.op === 'enqueue') counts.enqueued += step.messages.length
    if (step.op === 'ack') counts.acked += step.ids.length
    if (step.op === 'bury') counts.dead += step.ids.length
    if (step.op === 'bury') counts.failed += step.ids.length
    // A nack whose attempt was refunded is no failure.
    if (step.op === 'nack' && !refunded.includes(step.id)) counts.failed++
    refunded = step.op === 'return' ? step.ids : []
  }
}

function isFatal(error: unknown): error is MiniStoreError {
  return hasCode(error, 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MUTATOR')
}

/** The error for waiting and later calls once the contents of the disk are unknown. */
function queuePoisoned(cause: MiniStoreError): MiniStoreError {
  return hasCode(cause, 'ERR_MINISTORE_POISONED') ? cause : poisonedBy(cause)
}

/**
 * Estimates how many bytes of the journal the newest snapshot covers. Growth counts from there:
 * counted from the opening, it would never suffice in a process that dies often.
 */
function bytesBeforeSnapshot({ journalUse: { bytes, mutations }, recovery }: Manager): number {
  return mutations === 0 ? bytes : bytes * (1 - recovery.replayed / mutations)
}

/**
 * Message of the diagnostics channels `miniqueue:enqueue`, `miniqueue:deliver` and `miniqueue:ack`.
 * Like all events, it is published once the change is durable.
 */
export interface QueueEvent {
  /** Absolute path of the queue's directory. */
  readonly directory: string
  /** Ids of the messages. */
  readonly ids: readonly number[]
}

/** Message of the diagnostics channel `miniqueue:nack`: a message will be delivered again. */
export interface NackEvent {
  /** Absolute path of the queue's directory. */
  readonly directory: string
  /** Id of the message. */
  readonly id: number
  /** When the message is due, in milliseconds since 1970; undefined if it is ready at once. */
  readonly dueAt: number | undefined
  /** The reason given with the nack, if any. */
  readonly reason: string | undefined
}

/** Message of the diagnostics channel `miniqueue:dead`: messages have become dead letters. */
export interface DeadEvent extends QueueEvent {
  /** The reason given with the last nack, or how the last lease ended. */
  readonly reason: string
}

const enqueueChannel = channel('miniqueue:enqueue')
const deliverChannel = channel('miniqueue:deliver')
const ackChannel = channel('miniqueue:ack')
const nackChannel = channel('miniqueue:nack')
const deadChannel = channel('miniqueue:dead')

/** Publishes the events of a durable mutation. Without subscribers, it costs one check a step. */
function publishMutation(directory: string, mutation: QueueMutation, { added }: Outcome): void {
  for (const step of stepsOf(mutation)) {
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
}

/**
 * Publishes a delivery. It is separate from {@link publishMutation} because the delivery of a
 * message whose attempt was written before has no mutation.
 */
export function publishDelivery(directory: string, ids: readonly number[]): void {
  if (deliverChannel.hasSubscribers) deliverChannel.publish({ directory, ids } satisfies QueueEvent)
}
