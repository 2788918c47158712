import { constants } from 'node:buffer'

import { fields, integer, isObject, maxMs, shown } from '../options.ts'
import { type EncodedPayload, encodePayload } from './shape.ts'
import { queueFull } from './message.ts'
import type { EnqueueOptions, QueueSettings } from './settings.ts'
import { holderOf, type NewMessage, type QueueState, weightOf, weightOfReason } from './state.ts'

/** A message for `enqueueAll`: its payload together with the options of `enqueue`. */
export interface MessageToEnqueue<T> extends EnqueueOptions {
  /** Stored as JSON. */
  readonly payload: T
}

/** A message as it was when `enqueue` was called, validated and serialized. */
export interface Entry extends EncodedPayload {
  readonly delayMs: number
  readonly priority: number
  readonly key: string | undefined
}

/** Which messages of a call are written, and where each gets its id from. */
export interface EnqueuePlan {
  /** The messages to write; empty if every message is in the queue already. */
  readonly messages: readonly NewMessage[]
  /**
   * For each entry of the call, in order: the id of the message that holds its key, or its index in
   * `messages`.
   */
  readonly places: ReadonlyArray<{ readonly id: number } | { readonly index: number }>
}

type Limits = Pick<QueueSettings, 'maxPayloadBytes'>

/**
 * Approximate limit, in bytes, of everything in a queue. A larger queue would bring the text of a
 * snapshot near the longest string of the platform, beyond which no snapshot can be written.
 */
const maxLiveBytes = Math.floor(constants.MAX_STRING_LENGTH * 0.85)
/** The limit including reasons of nacks and dead letters, which are added to a full queue too. */
const maxBytesWithReasons = Math.floor(constants.MAX_STRING_LENGTH * 0.95)
const maxKeyLength = 1024

/**
 * Validates and serializes a message for `enqueue`.
 *
 * @throws {TypeError | RangeError} if an option is invalid.
 * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE` or `…_RECORD_TOO_LARGE` if the payload
 *   cannot be stored.
 */
export function entryOf(payload: unknown, options: unknown, limits: Limits): Entry {
  return entry(payload, fields(options, ['delayMs', 'priority', 'dedupeKey']), limits)
}

/** Like {@link entryOf}, for a message of `enqueueAll`. */
export function entryOfMessage(message: unknown, limits: Limits): Entry {
  if (!isObject(message) || !('payload' in message)) {
    throw new TypeError(`Expected a message to be an object with a \`payload\`, got ${shown(message)}`)
  }
  const { payload, ...options } = fields(message, ['payload', 'delayMs', 'priority', 'dedupeKey'])
  return entry(payload, options, limits)
}

/**
 * Decides by their keys which of the messages are new. A key may be held by a message in the queue,
 * or by an earlier message of the same call.
 *
 * This and the check of the depth run in the turn of the call, not in `validate`: they need a
 * clock, and the result may be that nothing is written.
 */
export function planEnqueue(
  entries: readonly Entry[],
  { state, at }: { readonly state: QueueState; readonly at: number },
): EnqueuePlan {
  const messages: NewMessage[] = []
  const added = new Map<string, number>()
  const places = entries.map(({ json, bytes, priority, delayMs, key }) => {
    const id = key === undefined ? undefined : holderOf(state, key, at)
    if (id !== undefined) return { id }
    const known = key === undefined ? undefined : added.get(key)
    if (known !== undefined) return { index: known }
    const index = messages.length
    if (key !== undefined) added.set(key, index)
    messages.push({
      payload: JSON.parse(json) as unknown,
      bytes,
      ...(priority !== 0 && { priority }),
      ...(delayMs > 0 && { dueAt: at + delayMs }),
      ...(key !== undefined && { key }),
    })
    return { index }
  })
  return { messages, places }
}

/** @throws {MiniStoreError} `ERR_MINISTORE_QUEUE_FULL` if the queue has no room for `more`. */
export function refuseFull(
  more: { readonly depth: number; readonly bytes: number },
  queue: { readonly depth: number; readonly liveBytes: number; readonly maxDepth: number },
): void {
  const depth = queue.depth + more.depth
  if (depth > queue.maxDepth) {
    const sum = `${queue.depth} messages and ${more.depth} more`
    throw queueFull(`${sum} are more than ${queue.maxDepth} (maxDepth)`)
  }
  // A redrive adds no bytes, so it stays possible when the queue has reached its limit of bytes.
  if (more.bytes > 0 && queue.liveBytes + more.bytes > maxLiveBytes) {
    throw queueFull(`about ${queue.liveBytes} bytes and ${more.bytes} more are more than ${maxLiveBytes}`)
  }
}

/** Returns the reason, or an empty one if the queue has no room for one copy for each message. */
export function reasonThatFits(
  reason: string,
  { liveBytes, messages }: { readonly liveBytes: number; readonly messages: number },
): string {
  return liveBytes + messages * weightOfReason(reason) > maxBytesWithReasons ? '' : reason
}

/** Approximate size of the messages in a snapshot, in bytes. */
export function bytesOf(messages: readonly NewMessage[]): number {
  return messages.reduce((sum, message) => sum + weightOf(message), 0)
}

function entry(payload: unknown, options: EnqueueFields, { maxPayloadBytes }: Limits): Entry {
  const { delayMs, priority, dedupeKey } = options
  return {
    delayMs: integer('delayMs', delayMs, { default: 0, min: 0, max: maxMs }),
    priority: integer('priority', priority, { default: 0, min: Number.MIN_SAFE_INTEGER }),
    key: keyOption(dedupeKey),
    ...encodePayload(payload, maxPayloadBytes),
  }
}

type EnqueueFields = { readonly [Name in keyof EnqueueOptions]?: unknown }

function keyOption(value: unknown): string | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'string') {
    throw new TypeError(`Expected \`dedupeKey\` to be a string, got ${shown(value)}`)
  }
  if (value.length >= 1 && value.length <= maxKeyLength) return value
  throw new RangeError(`Expected \`dedupeKey\` to have 1 to ${maxKeyLength} characters, got ${value.length}`)
}
