/**
 * The content of a queue as plain values. Every step returns a new value and leaves the old one
 * unchanged.
 */
export interface PlainQueue {
  /** Messages that are waiting or in flight, by name. */
  readonly messages: ReadonlyMap<number, PlainMessage>
  readonly dead: ReadonlyMap<number, PlainDead>
  /**
   * Which message a key stands for, and until when. `until` is `Infinity` while the message lives.
   */
  readonly keys: ReadonlyMap<string, PlainKey>
  readonly nextOrder: number
}

export interface PlainMessage {
  /** Unique in a test, and part of the payload, so it is known before the queue has given an id. */
  readonly name: number
  readonly text: string
  readonly priority: number
  readonly order: number
  readonly enqueuedAt: number
  /** In milliseconds on the wall clock; 0 if it was never delayed. */
  readonly dueAt: number
  /** Deliveries so far. */
  readonly attempts: number
  readonly key: string | undefined
  /** Its own limit of attempts. */
  readonly maxAttempts: number | undefined
}

export interface PlainDead extends PlainMessage {
  readonly diedAt: number
  /** Absent if the queue chooses the text. */
  readonly reason: string | undefined
}

export interface PlainKey {
  readonly name: number
  readonly until: number
}

export type NewMessage = Pick<PlainMessage, 'name' | 'text' | 'priority' | 'enqueuedAt' | 'dueAt' | 'key' | 'maxAttempts'>

export type Step = (queue: PlainQueue) => PlainQueue

export const emptyQueue: PlainQueue = {
  messages: new Map(),
  dead: new Map(),
  keys: new Map(),
  nextOrder: 1,
}

export function enqueued(added: readonly NewMessage[]): Step {
  return (queue) => {
    const messages = new Map(queue.messages)
    const keys = new Map(queue.keys)
    let { nextOrder } = queue
    for (const message of added) {
      messages.set(message.name, { ...message, order: nextOrder++, attempts: 0 })
      if (message.key !== undefined) keys.set(message.key, { name: message.name, until: Infinity })
    }
    return { ...queue, messages, keys, nextOrder }
  }
}

export function delivered(names: readonly number[]): Step {
  return changed(names, (message) => ({ ...message, attempts: message.attempts + 1, dueAt: 0 }))
}

/** @param keysUntil until when the keys of acknowledged messages stay valid. */
export function acked(names: readonly number[], keysUntil: number): Step {
  return (queue) => keysKept({ ...queue, messages: without(queue.messages, names) }, names, keysUntil)
}

export function purged(names: readonly number[]): Step {
  return (queue) => keysFreed({ ...queue, messages: without(queue.messages, names) }, names)
}

export function nacked(name: number, dueAt: number): Step {
  return changed([name], (message) => ({ ...message, dueAt }))
}

/** A nack after a stop, which takes back the attempt. */
export function stopped(name: number): Step {
  return changed([name], (message) => ({ ...message, attempts: message.attempts - 1 }))
}

export function buried(
  names: readonly number[],
  { diedAt, reason }: Pick<PlainDead, 'diedAt' | 'reason'>,
): Step {
  return (queue) => {
    const dead = new Map(queue.dead)
    for (const name of names) dead.set(name, { ...of(queue.messages, name), diedAt, reason })
    return keysFreed({ ...queue, dead, messages: without(queue.messages, names) }, names)
  }
}

export function redriven(names: readonly number[], wall: number): Step {
  return (queue) => {
    const messages = new Map(queue.messages)
    const keys = new Map(queue.keys)
    let { nextOrder } = queue
    for (const name of names) {
      const message = { ...of(queue.dead, name), attempts: 0, dueAt: 0, order: nextOrder++ }
      messages.set(name, message)
      const { key } = message
      if (key === undefined) continue
      const { until = 0 } = keys.get(key) ?? {}
      // After a clock was set back it is unknown whether the key is free, and so which message has it now.
      if (Number.isNaN(until)) keys.set(key, { name: NaN, until: NaN })
      // Another message may use its key by now, or may have released it recently.
      else if (until <= wall) keys.set(key, { name, until: Infinity })
    }
    return { ...queue, messages, keys, nextOrder, dead: without(queue.dead, names) }
  }
}

export function discarded(names: readonly number[]): Step {
  return (queue) => ({ ...queue, dead: without(queue.dead, names) })
}

/** What every opening does: it buries messages that have had as many attempts as they may have. */
export function opened(queue: PlainQueue, { diedAt, maxAttempts = Infinity }: { diedAt: number; maxAttempts?: number }): PlainQueue {
  const names = tired(queue, maxAttempts)
  return names.length === 0 ? queue : buried(names, { diedAt, reason: undefined })(queue)
}

/** Names of messages that have had as many attempts as they may have, in order. */
export function tired(queue: PlainQueue, maxAttempts: number): number[] {
  const isTired = (message: PlainMessage): boolean => message.attempts >= (message.maxAttempts ?? maxAttempts)
  return inOrder(queue.messages.values()).filter(isTired).map(({ name }) => name)
}

/** Waiting messages, in the order in which they are delivered once all of them are due. */
export function inOrder(messages: Iterable<PlainMessage>): PlainMessage[] {
  return [...messages].toSorted((left, right) => right.priority - left.priority || left.order - right.order)
}

/** The visible content of a queue as text; equal for equal content. */
export function describePlain(queue: PlainQueue): string {
  const waiting = inOrder(queue.messages.values()).map((message) => ({
    ...message,
    isDelayed: message.dueAt > 0,
  }))
  return describe(waiting, [...queue.dead.values()])
}

/** Like {@link describePlain}, for any values with the same fields. */
export function describe(
  waiting: ReadonlyArray<Told & { readonly isDelayed: boolean }>,
  dead: ReadonlyArray<Told & Pick<PlainDead, 'diedAt'>>,
): string {
  const tell = ({ name, text, attempts, maxAttempts, enqueuedAt }: Told): string =>
    `${name}${text} ×${attempts}${maxAttempts === undefined ? '' : ` of at most ${maxAttempts}`} of ${enqueuedAt}`
  const lines = waiting.map((message) => `${tell(message)}${message.isDelayed ? ' delayed' : ''}`)
  const ends = dead
    .toSorted((left, right) => left.name - right.name)
    .map((letter) => `${tell(letter)} † ${letter.diedAt}`)
  return `waiting [${lines.join(', ')}], dead [${ends.join(', ')}]`
}

type Told = Pick<PlainMessage, 'name' | 'text' | 'attempts' | 'maxAttempts' | 'enqueuedAt'>

function changed(names: readonly number[], change: (message: PlainMessage) => PlainMessage): Step {
  return (queue) => {
    const messages = new Map(queue.messages)
    for (const name of names) messages.set(name, change(of(queue.messages, name)))
    return { ...queue, messages }
  }
}

function keysKept(queue: PlainQueue, names: readonly number[], until: number): PlainQueue {
  const keys = [...queue.keys].map(
    ([key, held]) => [key, names.includes(held.name) ? { ...held, until } : held] as const,
  )
  return { ...queue, keys: new Map(keys) }
}

function keysFreed(queue: PlainQueue, names: readonly number[]): PlainQueue {
  const keys = [...queue.keys].filter(([, { name, until }]) => until !== Infinity || !names.includes(name))
  return { ...queue, keys: new Map(keys) }
}

function without<Value>(map: ReadonlyMap<number, Value>, names: readonly number[]): Map<number, Value> {
  return new Map([...map].filter(([name]) => !names.includes(name)))
}

function of<Value>(map: ReadonlyMap<number, Value>, name: number): Value {
  const value = map.get(name)
  if (value === undefined) throw new Error(`The model has no message ${name}`)
  return value
}
