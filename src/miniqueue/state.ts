/**
 * What a queue keeps on the disk, as plain JSON: `jq .state snapshot-<sequence>.json` shows it.
 *
 * Who has received what is not in it: leases end with their process. So every message that is in it can be
 * delivered.
 */
export interface QueueState {
  /** Id of the next message; an id is never given twice. */
  nextId: number
  /** Place of the next message that takes one at the end. */
  nextOrder: number
  /** Messages that wait or are in flight, by id. */
  readonly messages: Record<number, QueuedMessage>
  /** Dead letters, by id. */
  readonly dead: Record<number, DeadMessage>
  /** Which message a key stands for, by {@link keyName}. */
  readonly keys: Record<string, KeyHolder>
  /** Keys whose messages are acknowledged, oldest first, with the time at which they are free again. */
  expiring: ExpiringKey[]
}

/** What is the same for messages and dead letters. */
interface StoredMessage {
  readonly payload: unknown
  /** Length of the payload as JSON. */
  readonly bytes: number
  /** Higher ones are delivered first. */
  readonly priority: number
  /** Milliseconds since 1970. */
  readonly enqueuedAt: number
  readonly key?: string
  /** Times that it was delivered. */
  attempts: number
}

export interface QueuedMessage extends StoredMessage {
  /** Place among those of its priority. */
  readonly order: number
  /** Present while it is delayed, and until it is delivered: milliseconds since 1970. */
  readonly dueAt?: number
  /** Why it was not acknowledged the last time; absent while nobody has said. */
  readonly reason?: string
}

export interface DeadMessage extends StoredMessage {
  readonly reason: string
  /** Milliseconds since 1970. */
  readonly diedAt: number
}

export interface KeyHolder {
  readonly id: number
  /** Present once the message is acknowledged: from then on the key is free. */
  readonly until?: number
}

export interface ExpiringKey {
  readonly key: string
  readonly until: number
}

/**
 * A change of a queue, as its journal keeps it. Everything that was decided by a clock, an option or at
 * random is written in it, so that replaying it gives the same at any time and with any options.
 */
export type QueueMutation =
  | QueueStep
  /** Steps that happen together or not at all, as one line of the journal. */
  | { readonly op: 'batch'; readonly steps: readonly QueueStep[] }
  | { readonly op: 'purge'; readonly except: readonly number[] }

/** What a batch may consist of. */
export type QueueStep =
  | EnqueueStep
  | { readonly op: 'deliver'; readonly ids: readonly number[] }
  /**
   * Nobody was given these messages after all: the attempts of their last deliveries are taken back. A delay
   * that was over and a reason that was told do not come back.
   */
  | { readonly op: 'return'; readonly ids: readonly number[] }
  /** @property keysUntil how long the keys of the messages are kept; absent: no longer. */
  | { readonly op: 'ack'; readonly ids: readonly number[]; readonly keysUntil?: number }
  | { readonly op: 'nack'; readonly id: number; readonly dueAt?: number; readonly reason?: string }
  | { readonly op: 'bury'; readonly ids: readonly number[]; readonly reason: string; readonly at: number }
  /** @property at decides which keys are free; absent in journals of 0.3.0, where a key that was kept is taken. */
  | { readonly op: 'redrive'; readonly ids: readonly number[]; readonly at?: number }
  | { readonly op: 'discard'; readonly ids: readonly number[] }

export interface EnqueueStep {
  readonly op: 'enqueue'
  readonly at: number
  readonly messages: readonly NewMessage[]
}

/** A message as it is written down when it is enqueued; its id follows from the state. */
export interface NewMessage {
  readonly payload: unknown
  readonly bytes: number
  /** Absent: 0. */
  readonly priority?: number
  readonly dueAt?: number
  readonly key?: string
}

export function emptyQueue(): QueueState {
  return { nextId: 1, nextOrder: 1, messages: {}, dead: {}, keys: {}, expiring: [] }
}

/** What a mutation does, in its order. */
export function stepsOf(mutation: QueueMutation): readonly OneMutation[] {
  return mutation.op === 'batch' ? mutation.steps : [mutation]
}

/** A mutation that is no batch. */
export type OneMutation = Exclude<QueueMutation, { readonly op: 'batch' }>

/** One mutation of these steps, of which there is at least one. */
export function mutationOf(steps: readonly QueueStep[]): QueueMutation {
  const [only] = steps
  return steps.length === 1 && only !== undefined ? only : { op: 'batch', steps }
}

/**
 * The name under which the state has a key: as it is, one such as `__proto__` could not be the name of a
 * property.
 */
export function keyName(key: string): string {
  return `key:${key}`
}

/** The message that a key stands for at some time; undefined while it is free. */
export function holderOf(state: QueueState, key: string, at: number): number | undefined {
  const holder = state.keys[keyName(key)]
  return holder === undefined || (holder.until !== undefined && holder.until <= at) ? undefined : holder.id
}

/** Makes a key stand for a message, unless another one that lives has it. */
export function holdKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder === undefined || holder.until !== undefined) state.keys[keyName(key)] = { id }
}

/** Frees a key, if it stands for this message. */
export function releaseKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder?.id === id && holder.until === undefined) delete state.keys[keyName(key)]
}

/**
 * Keeps the key of a message that is gone for a while, if it stands for it. Gives the weight that this adds.
 */
export function keepKey(
  state: QueueState,
  key: string,
  { id, until }: { readonly id: number; readonly until: number },
): number {
  const name = keyName(key)
  if (state.keys[name]?.id !== id) return 0
  state.keys[name] = { id, until }
  state.expiring.push({ key, until })
  return weightOfKept(key)
}

/**
 * Forgets keys that are free again, once at least half of those that were kept seem to be: so each costs one
 * look or two. Gives the change of weight.
 */
export function sweepKeys(state: QueueState, at: number): number {
  const { expiring } = state
  const middle = expiring[expiring.length >> 1]
  if (middle === undefined || middle.until > at) return 0
  let change = 0
  state.expiring = expiring.filter(({ key, until }) => {
    if (until > at) return true
    const name = keyName(key)
    if (state.keys[name]?.until === until) delete state.keys[name]
    change -= weightOfKept(key)
    return false
  })
  return change
}

/** What a snapshot has of a message beside its payload, key and reason, with long numbers. */
const messageBytes = 160
/** What it has of the key of a message, beside the key, which is there twice. */
const keyBytes = 36
/** What it has of the key of a message that is acknowledged, beside the key, which is there twice. */
const keptKeyBytes = 80
/** What it has of a reason beside its text. */
const reasonBytes = 12

/**
 * About how many bytes of a snapshot a message or a dead letter is, rather more than fewer: for the ratio between
 * what lives and what is on the disk, and for the limit on all that a snapshot can hold. The key of a dead letter
 * counts as if it were held, so that a letter that is redriven weighs no more than before.
 */
export function weightOf(message: {
  readonly bytes: number
  readonly key?: string
  readonly reason?: string
}): number {
  const { bytes, key, reason } = message
  const ofKey = key === undefined ? 0 : keyBytes + 2 * jsonBytes(key)
  return messageBytes + bytes + ofKey + (reason === undefined ? 0 : weightOfReason(reason))
}

/** As {@link weightOf}, of a reason alone. */
export function weightOfReason(reason: string): number {
  return reasonBytes + jsonBytes(reason)
}

/** As {@link weightOf}, of the key of a message that is acknowledged. */
export function weightOfKept(key: string): number {
  return keptKeyBytes + 2 * jsonBytes(key)
}

/** With escapes and in UTF-8, without the quotes. */
function jsonBytes(text: string): number {
  return Buffer.byteLength(JSON.stringify(text)) - 2
}
