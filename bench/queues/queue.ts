/** A durable message queue that runs in the process that enqueues and takes its messages. */
export interface QueueContestant {
  /** Name shown in tables. */
  readonly name: string
  readonly version: string
  /** What holds once an enqueue, a claim or an acknowledgement has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while the queue waits for the disk. */
  readonly blocksEventLoop: boolean
  /** How its worker learns of a new message. */
  readonly waking: string
  /**
   * Ways to take messages one at a time, by the names shown in tables. Default: one way, named as
   * the queue.
   */
  readonly waysAlone?: readonly string[]
  /** Ways to take up to `width` messages at a time, by the names shown in tables. */
  readonly ways: readonly string[]
  /** Opens a new queue in an empty directory. */
  open(directory: string): Promise<OpenQueue>
}

/** The most messages taken at a time, in drains that may take several. */
export const width = 32

/** An open queue. */
export interface OpenQueue {
  /**
   * Adds a message. The message is as durable as `promise` says once the call resolves, or returns
   * undefined.
   */
  enqueue(payload: unknown): Promise<unknown> | undefined
  /** Adds messages as fast as possible. When it resolves, no writes are left for later. */
  fill(payloads: readonly unknown[]): Promise<void>
  /**
   * Takes and acknowledges `messages` messages, one after another. `way` is one of `waysAlone`, or
   * the name of the queue if it has none.
   */
  drain(messages: number, way: string): Promise<void>
  /** Takes and acknowledges `messages` messages in one of `ways`, up to `width` at a time. */
  drainBy(way: string, messages: number): Promise<void>
  /** Passes messages to a handler as they arrive, one at a time. */
  work(handler: (payload: unknown) => void): Worker
  /** The number of messages that are not acknowledged. */
  countLeft(): number | Promise<number>
  close(): Promise<void>
}

/** A running worker that handles messages. */
export interface Worker {
  /** Stops taking messages. Resolves once every message taken is acknowledged. */
  stop(): Promise<void>
}
