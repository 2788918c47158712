/**
 * The state of a queue on disk, as plain JSON. `jq .state snapshot-<sequence>.json` shows it.
 *
 * Invariant: the state follows from the mutations alone. Every result that depends on a clock, an
 * option or a random number stands in the mutation.
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
  /** The limit of this message; absent if the limit of the queue applies. */
  readonly maxAttempts?: number
  readonly headers?: Headers
  /** Number of deliveries. */
  attempts: number
}

/** Texts that accompany a payload. */
export type Headers = Readonly<Record<string, string>>

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

/** A change of a queue, as stored in its journal. */
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
  /** Removes messages that wait. */
  | { readonly op: 'cancel'; readonly ids: readonly number[] }

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
  /** The limit of this message; absent if the limit of the queue applies. */
  readonly maxAttempts?: number
  readonly headers?: Headers
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

type StepNamed<Op extends OneMutation['op']> = Extract<OneMutation, { readonly op: Op }>

/** Combines steps, at least one, into one mutation. */
export function mutationOf(steps: readonly QueueStep[]): QueueMutation {
  const [only] = steps
  return steps.length === 1 && only !== undefined ? only : { op: 'batch', steps }
}

/** The id of the message that holds a key at the time `at`; undefined if the key is free. */
export function holderOf(state: QueueState, key: string, at: number): number | undefined {
  const holder = state.keys[keyName(key)]
  return holder === undefined || (holder.until !== undefined && holder.until <= at) ? undefined : holder.id
}

/**
 * The property name of a key in `QueueState.keys`. The prefix is needed because a key such as
 * `__proto__` or `7` by itself is not the name of an ordinary property.
 */
export function keyName(key: string): string {
  return `key:${key}`
}

/** What a mutation has changed, for the indexes in memory. */
export interface Outcome {
  /** Ids of the new messages, in the order of the mutation. */
  readonly added: readonly number[]
  /** Ids of messages that now wait, in order: new messages, nacked ones and redriven ones. */
  readonly waiting: ReadonlySet<number>
  /** Ids of messages that are gone: acknowledged, dead, cancelled or purged. */
  readonly left: readonly number[]
  /** Change of the number of messages. */
  readonly depth: number
  /** Change of the number of dead letters. */
  readonly dead: number
  /** Approximate change of the weight of the state, in bytes of JSON. */
  readonly bytes: number
}

/**
 * Applies a valid mutation to a valid state, in place, and returns what has changed. The result
 * depends only on the two arguments, so replay gives the same state.
 *
 * Unknown ids are skipped, because ids are checked before a mutation is written.
 */
export function transition(state: QueueState, mutation: QueueMutation): Outcome {
  const change = new Transition(state)
  for (const step of stepsOf(mutation)) change.take(step)
  return change
}

class Transition implements Outcome {
  readonly added: number[] = []
  readonly waiting = new Set<number>()
  readonly left: number[] = []
  depth = 0
  dead = 0
  bytes = 0
  readonly #state: QueueState

  constructor(state: QueueState) {
    this.#state = state
  }

  take(step: OneMutation): void {
    switch (step.op) {
      case 'enqueue':
        this.#sweepKeys(step.at)
        for (const message of step.messages) this.#enqueue(message, step.at)
        break
      case 'deliver':
        for (const id of step.ids) this.#deliver(id)
        break
      case 'return':
        for (const id of step.ids) this.#refundAttempt(id)
        break
      case 'ack':
        for (const id of step.ids) this.#ack(id, step)
        break
      case 'nack':
        this.#nack(step)
        break
      case 'bury':
        for (const id of step.ids) this.#bury(id, step)
        break
      case 'redrive':
        for (const id of step.ids) this.#redrive(id, step)
        break
      case 'discard':
        for (const id of step.ids) this.#takeDead(id)
        break
      case 'cancel':
        for (const id of step.ids) this.#drop(id)
        break
      case 'purge':
        this.#purge(new Set(step.except))
    }
  }

  #enqueue(message: NewMessage, at: number): void {
    const { payload, bytes, priority = 0, dueAt, key } = message
    const id = this.#state.nextId++
    if (key !== undefined) this.#holdKey(key, id)
    this.added.push(id)
    const order = this.#state.nextOrder++
    const waiting = { payload, bytes, priority, order, enqueuedAt: at, attempts: 0, ...lasting(message) }
    this.#putMessage(id, dueAt === undefined ? waiting : { ...waiting, dueAt })
  }

  #deliver(id: number): void {
    const message = this.#state.messages[id]
    if (message === undefined) return
    message.attempts++
    // A message that is delivered by the same mutation that added it does not wait.
    this.waiting.delete(id)
    if (message.dueAt === undefined && message.reason === undefined) return
    const { dueAt: _due, reason: _reason, ...delivered } = message
    this.#replace(id, message, delivered)
  }

  #refundAttempt(id: number): void {
    const message = this.#state.messages[id]
    if (message !== undefined && message.attempts > 0) message.attempts--
  }

  #ack(id: number, { keysUntil: until }: StepNamed<'ack'>): void {
    const key = this.#takeMessage(id)?.key
    if (key === undefined) return
    if (until === undefined) return this.#releaseKey(key, id)
    const name = keyName(key)
    if (this.#state.keys[name]?.id !== id) return
    this.#state.keys[name] = { id, until }
    this.#state.expiring.push({ key, until })
    this.bytes += weightOfKept(key)
  }

  #nack({ id, dueAt, reason }: StepNamed<'nack'>): void {
    const message = this.#state.messages[id]
    if (message === undefined) return
    this.waiting.add(id)
    const nacked = { ...message, ...(dueAt !== undefined && { dueAt }), ...(reason !== undefined && { reason }) }
    this.#replace(id, message, nacked)
  }

  #bury(id: number, { reason, at }: StepNamed<'bury'>): void {
    const message = this.#takeMessage(id)
    if (message === undefined) return
    const { payload, bytes, priority, enqueuedAt, attempts, key } = message
    // A dead letter holds no key, so the same message can be enqueued again after a repair.
    // Otherwise `enqueue` would report the id of a message that is never delivered.
    if (key !== undefined) this.#releaseKey(key, id)
    const letter = { payload, bytes, priority, enqueuedAt, attempts, reason, diedAt: at, ...lasting(message) }
    this.#state.dead[id] = letter
    this.dead++
    this.bytes += weightOf(letter)
  }

  #redrive(id: number, { at }: StepNamed<'redrive'>): void {
    const letter = this.#takeDead(id)
    if (letter === undefined) return
    const { payload, bytes, priority, enqueuedAt, key } = letter
    const order = this.#state.nextOrder++
    // Another message may hold the key, or the key may be kept after an ack. Then it stays so.
    const isFree = key !== undefined && (at === undefined || holderOf(this.#state, key, at) === undefined)
    if (isFree) this.#holdKey(key, id)
    this.#putMessage(id, { payload, bytes, priority, order, enqueuedAt, attempts: 0, ...lasting(letter) })
  }

  #purge(except: ReadonlySet<number>): void {
    for (const id of Object.keys(this.#state.messages).map(Number)) if (!except.has(id)) this.#drop(id)
  }

  /** Removes a message and frees its key. */
  #drop(id: number): void {
    const key = this.#takeMessage(id)?.key
    if (key !== undefined) this.#releaseKey(key, id)
  }

  #putMessage(id: number, message: QueuedMessage): void {
    this.#state.messages[id] = message
    this.waiting.add(id)
    this.depth++
    this.bytes += weightOf(message)
  }

  #replace(id: number, message: QueuedMessage, changed: QueuedMessage): void {
    this.#state.messages[id] = changed
    this.bytes += weightOf(changed) - weightOf(message)
  }

  #takeMessage(id: number): QueuedMessage | undefined {
    const message = this.#state.messages[id]
    if (message === undefined) return undefined
    delete this.#state.messages[id]
    this.left.push(id)
    this.depth--
    this.bytes -= weightOf(message)
    return message
  }

  #takeDead(id: number): DeadMessage | undefined {
    const letter = this.#state.dead[id]
    if (letter === undefined) return undefined
    delete this.#state.dead[id]
    this.dead--
    this.bytes -= weightOf(letter)
    return letter
  }

  /** Gives a key to a message, unless a message that is not acknowledged holds it. */
  #holdKey(key: string, id: number): void {
    const holder = this.#state.keys[keyName(key)]
    if (holder === undefined || holder.until !== undefined) this.#state.keys[keyName(key)] = { id }
  }

  /** Frees a key if this message holds it. */
  #releaseKey(key: string, id: number): void {
    const holder = this.#state.keys[keyName(key)]
    if (holder?.id === id && holder.until === undefined) delete this.#state.keys[keyName(key)]
  }

  /**
   * Removes kept keys that are free again, once the middle entry of `expiring` is. Then about half
   * of the entries are free, so each entry is examined only once or twice.
   */
  #sweepKeys(at: number): void {
    const { expiring, keys } = this.#state
    const middle = expiring[expiring.length >> 1]
    if (middle === undefined || middle.until > at) return
    this.#state.expiring = expiring.filter(({ key, until }) => {
      if (until > at) return true
      const name = keyName(key)
      if (keys[name]?.until === until) delete keys[name]
      this.bytes -= weightOfKept(key)
      return false
    })
  }
}

/** The optional fields that a message keeps for life. */
function lasting(message: Pick<StoredMessage, 'key' | 'maxAttempts' | 'headers'>): typeof message {
  const { key, maxAttempts, headers } = message
  return {
    ...(key !== undefined && { key }),
    ...(maxAttempts !== undefined && { maxAttempts }),
    ...(headers !== undefined && { headers }),
  }
}

/** Bytes of a message in a snapshot, with long numbers and without its optional fields. */
const messageBytes = 160
/** Bytes of a held key in a snapshot, without the two copies of the key itself. */
const keyBytes = 36
/** Bytes of the key of an acknowledged message, without the two copies of the key itself. */
const keptKeyBytes = 80
/** Bytes of the limit of attempts of a message in a snapshot. */
const limitBytes = 32
/** Bytes of headers in a snapshot, without their JSON. */
const headersBytes = 12
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
  readonly maxAttempts?: number
  readonly headers?: Headers
  readonly reason?: string
}): number {
  const { bytes, key, maxAttempts, headers, reason } = message
  const ofKey = key === undefined ? 0 : keyBytes + 2 * jsonBytes(key)
  const ofLimit = maxAttempts === undefined ? 0 : limitBytes
  const ofHeaders = headers === undefined ? 0 : headersBytes + Buffer.byteLength(JSON.stringify(headers))
  return messageBytes + bytes + ofKey + ofLimit + ofHeaders + (reason === undefined ? 0 : weightOfReason(reason))
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
