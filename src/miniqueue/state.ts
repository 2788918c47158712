/**
 * The state of a queue on disk, as plain JSON. `jq .state snapshot-<sequence>.json` shows it.
 *
 * It holds no leases, because leases end with their process. So after a crash every message in it
 * can be delivered.
 */
export interface QueueState {
  /** Id of the next message. Ids are never reused. */
  nextId: number
  /** `order` of the next message that goes to the end of its priority. */
  nextOrder: number
  /** Messages that wait or are in flight, by id. */
  readonly messages: Record<number, QueuedMessage>
  /** Dead letters, by id. */
  readonly dead: Record<number, DeadMessage>
  /** The message that holds or held each key, by {@link keyName}. */
  readonly keys: Record<string, KeyHolder>
  /** Keys of acknowledged messages, oldest ack first, with the time at which each is free again. */
  expiring: ExpiringKey[]
}

/** The fields that messages and dead letters share. */
interface StoredMessage {
  readonly payload: unknown
  /** Length of the payload as JSON, in bytes. */
  readonly bytes: number
  /** Higher priorities are delivered first. */
  readonly priority: number
  /** Milliseconds since 1970. */
  readonly enqueuedAt: number
  readonly key?: string
  /** Number of deliveries. */
  attempts: number
}

export interface QueuedMessage extends StoredMessage {
  /** Place within its priority; lower places are delivered first. */
  readonly order: number
  /** When a delayed message is due, in milliseconds since 1970. The next delivery removes it. */
  readonly dueAt?: number
  /** The reason given with the last nack, if any. The next delivery removes it. */
  readonly reason?: string
}

export interface DeadMessage extends StoredMessage {
  readonly reason: string
  /** Milliseconds since 1970. */
  readonly diedAt: number
}

export interface KeyHolder {
  readonly id: number
  /**
   * Present once the message is acknowledged: the time from which the key is free, in milliseconds
   * since 1970.
   */
  readonly until?: number
}

export interface ExpiringKey {
  readonly key: string
  readonly until: number
}

/**
 * A change of a queue, as stored in its journal. It contains every result that depends on a clock,
 * an option or a random number. So replay gives the same state at any time and with any options.
 */
export type QueueMutation =
  | QueueStep
  /** Steps that happen together or not at all, because they are one line of the journal. */
  | { readonly op: 'batch'; readonly steps: readonly QueueStep[] }
  | { readonly op: 'purge'; readonly except: readonly number[] }

/** A change that may be part of a batch. */
export type QueueStep =
  | EnqueueStep
  | { readonly op: 'deliver'; readonly ids: readonly number[] }
  /**
   * Takes back the last attempts of messages that no receiver got. A `dueAt` and a `reason` that
   * the delivery removed are not restored.
   */
  | { readonly op: 'return'; readonly ids: readonly number[] }
  /**
   * @property keysUntil until when the keys of the messages stay taken; if it is absent, the keys
   *   are free at once.
   */
  | { readonly op: 'ack'; readonly ids: readonly number[]; readonly keysUntil?: number }
  | { readonly op: 'nack'; readonly id: number; readonly dueAt?: number; readonly reason?: string }
  | { readonly op: 'bury'; readonly ids: readonly number[]; readonly reason: string; readonly at: number }
  /**
   * @property at the time that decides which keys are free. It is absent in journals of 0.3.0;
   *   there a redriven message takes over a key that was kept after an ack.
   */
  | { readonly op: 'redrive'; readonly ids: readonly number[]; readonly at?: number }
  | { readonly op: 'discard'; readonly ids: readonly number[] }

export interface EnqueueStep {
  readonly op: 'enqueue'
  readonly at: number
  readonly messages: readonly NewMessage[]
}

/** A message as stored when it is enqueued. Its id follows from the state. */
export interface NewMessage {
  readonly payload: unknown
  /** Length of the payload as JSON, in bytes. */
  readonly bytes: number
  /** Absent if it is 0. */
  readonly priority?: number
  /** Milliseconds since 1970; absent if the message is ready at once. */
  readonly dueAt?: number
  readonly key?: string
}

export function emptyQueue(): QueueState {
  return { nextId: 1, nextOrder: 1, messages: {}, dead: {}, keys: {}, expiring: [] }
}

/** The steps of a mutation, in order. */
export function stepsOf(mutation: QueueMutation): readonly OneMutation[] {
  return mutation.op === 'batch' ? mutation.steps : [mutation]
}

/** A mutation that is not a batch. */
export type OneMutation = Exclude<QueueMutation, { readonly op: 'batch' }>

/** Combines steps, at least one, into one mutation. */
export function mutationOf(steps: readonly QueueStep[]): QueueMutation {
  const [only] = steps
  return steps.length === 1 && only !== undefined ? only : { op: 'batch', steps }
}

/**
 * The property name of a key in `QueueState.keys`. The prefix is needed because a key such as
 * `__proto__` or `7` by itself is not the name of an ordinary property.
 */
export function keyName(key: string): string {
  return `key:${key}`
}

/** The id of the message that holds a key at the time `at`; undefined if the key is free. */
export function holderOf(state: QueueState, key: string, at: number): number | undefined {
  const holder = state.keys[keyName(key)]
  return holder === undefined || (holder.until !== undefined && holder.until <= at) ? undefined : holder.id
}

/** Gives a key to a message, unless a message that is not acknowledged holds it. */
export function holdKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder === undefined || holder.until !== undefined) state.keys[keyName(key)] = { id }
}

/** Frees a key if this message holds it. */
export function releaseKey(state: QueueState, key: string, id: number): void {
  const holder = state.keys[keyName(key)]
  if (holder?.id === id && holder.until === undefined) delete state.keys[keyName(key)]
}

/**
 * Keeps the key of an acknowledged message taken until `until`, if the message holds it. Returns
 * the weight that this adds.
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
 * Removes kept keys that are free again, once the middle entry of `expiring` is. Then about half of
 * the entries are free, so each entry is examined only once or twice. Returns the change of weight.
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

/** Bytes of a message in a snapshot, with long numbers and without payload, key and reason. */
const messageBytes = 160
/** Bytes of a held key in a snapshot, without the two copies of the key itself. */
const keyBytes = 36
/** Bytes of the key of an acknowledged message, without the two copies of the key itself. */
const keptKeyBytes = 80
/** Bytes of a reason in a snapshot, without its text. */
const reasonBytes = 12

/**
 * Estimates the bytes of a message or dead letter in a snapshot, rather too high than too low. It
 * serves the ratio of live bytes to bytes on disk, and the limit on the size of a snapshot. The key
 * of a dead letter counts as if it were held, so a redriven message weighs no more than before.
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

/** Like {@link weightOf}, for a reason alone. */
export function weightOfReason(reason: string): number {
  return reasonBytes + jsonBytes(reason)
}

/** Like {@link weightOf}, for the key of an acknowledged message. */
export function weightOfKept(key: string): number {
  return keptKeyBytes + 2 * jsonBytes(key)
}

/** Bytes of a text as JSON: with escapes, in UTF-8, and without the quotes. */
function jsonBytes(text: string): number {
  return Buffer.byteLength(JSON.stringify(text)) - 2
}
