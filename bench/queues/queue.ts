/** A queue of messages on the disk, in the process that fills and empties it. */
export interface QueueContestant {
  /** As tables show it. */
  readonly name: string
  readonly version: string
  /** What is true when an enqueue, a claim or an ack has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while it waits for the disk. */
  readonly blocksEventLoop: boolean
  /** How its worker learns of a message. */
  readonly waking: string
  /** Its ways to take messages one at a time, as tables show them, when it has more than one. */
  readonly waysAlone?: readonly string[]
  /** Its ways to take messages where up to `width` may be taken at a time, as tables show them. */
  readonly ways: readonly string[]
  /** Opens a new queue in an empty directory. */
  open(directory: string): Promise<OpenQueue>
}

/** Messages that may be taken at a time where more than one may. */
export const width = 32

/** A queue that is open. */
export interface OpenQueue {
  /** Adds a message. As durable as promised when it resolves, or returns. */
  enqueue(payload: unknown): Promise<unknown> | undefined
  /** Adds many, as fast as it can be, and leaves nothing to be written later. */
  fill(payloads: readonly unknown[]): Promise<void>
  /** Takes and acknowledges so many messages, one after the other, in one of the ways if there are several. */
  drain(messages: number, way: string): Promise<void>
  /** The same in one of the ways that may take several. */
  drainBy(way: string, messages: number): Promise<void>
  /** Hands messages to a handler as they come, one at a time. */
  work(handler: (payload: unknown) => void): Worker
  /** Messages that are not acknowledged. */
  countLeft(): number | Promise<number>
  close(): Promise<void>
}

/** Somebody who handles messages. */
export interface Worker {
  /** Resolves when what was taken is acknowledged, and no more is taken. */
  stop(): Promise<void>
}
