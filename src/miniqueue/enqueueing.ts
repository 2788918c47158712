import { constants } from 'node:buffer'

import { fields, integer, isObject, maxMs, shown } from '../options.ts'
import { type EncodedPayload, encodePayload } from './shape.ts'
import { queueFull } from './message.ts'
import type { EnqueueOptions, QueueSettings } from './settings.ts'
import { holderOf, type NewMessage, type QueueState, weightOf, weightOfReason } from './state.ts'

/** A message for `enqueueAll`: its payload beside the options of `enqueue`. */
export interface MessageToEnqueue<T> extends EnqueueOptions {
  readonly payload: T
}

/** A message as it was when it was given. */
export interface Entry extends EncodedPayload {
  readonly delayMs: number
  readonly priority: number
  readonly key: string | undefined
}

/** What becomes of messages when their turn has come. */
export interface EnqueuePlan {
  /** Those to be written; undefined when every one is there already. */
  readonly messages: readonly NewMessage[]
  /**
   * For each message that was given: the id of the one that is there, or where it stands among the written
   * ones.
   */
  readonly places: ReadonlyArray<{ readonly id: number } | { readonly index: number }>
}

type Limits = Pick<QueueSettings, 'maxPayloadBytes'>

/**
 * About how many bytes a queue can hold: with more a snapshot would come near to the longest string of the
 * platform, and there could be none any more.
 */
const maxLiveBytes = Math.floor(constants.MAX_STRING_LENGTH * 0.85)
/** The same with the reasons why messages were not done, which come when the messages are there already. */
const maxBytesWithReasons = Math.floor(constants.MAX_STRING_LENGTH * 0.95)
const maxKeyLength = 1024

/**
 * @throws {TypeError | RangeError | MiniStoreError} for options that are none, and payloads that cannot be
 * kept.
 */
export function entryOf(payload: unknown, options: unknown, limits: Limits): Entry {
  return entry(payload, fields(options, ['delayMs', 'priority', 'dedupeKey']), limits)
}

/** As {@link entryOf}, of what `enqueueAll` is given. */
export function entryOfMessage(message: unknown, limits: Limits): Entry {
  if (!isObject(message) || !('payload' in message)) {
    throw new TypeError(`Expected a message to be an object with a \`payload\`, got ${shown(message)}`)
  }
  const { payload, ...options } = fields(message, ['payload', 'delayMs', 'priority', 'dedupeKey'])
  return entry(payload, options, limits)
}

/**
 * Decides which of the messages are new, by their keys, and whether there is room for these.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_QUEUE_FULL`
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

/** @throws {MiniStoreError} `ERR_MINISTORE_QUEUE_FULL` when the messages do not fit beside what is there. */
export function refuseFull(
  more: { readonly depth: number; readonly bytes: number },
  queue: { readonly depth: number; readonly liveBytes: number; readonly maxDepth: number },
): void {
  const depth = queue.depth + more.depth
  if (depth > queue.maxDepth) {
    const sum = `${queue.depth} messages and ${more.depth} more`
    throw queueFull(`${sum} are more than ${queue.maxDepth} (maxDepth)`)
  }
  // A redrive adds nothing, and what is full already may be worked on.
  if (more.bytes > 0 && queue.liveBytes + more.bytes > maxLiveBytes) {
    throw queueFull(`about ${queue.liveBytes} bytes and ${more.bytes} more are more than ${maxLiveBytes}`)
  }
}

/** The reason, or none if there is no room for it: once for each message that it is said of. */
export function reasonThatFits(
  reason: string,
  { liveBytes, messages }: { readonly liveBytes: number; readonly messages: number },
): string {
  return liveBytes + messages * weightOfReason(reason) > maxBytesWithReasons ? '' : reason
}

/** About how many bytes messages will be. */
export function bytesOf(messages: readonly NewMessage[]): number {
  return messages.reduce((sum, message) => sum + weightOf(message), 0)
}

function entry(payload: unknown, options: EnqueueFields, { maxPayloadBytes }: Limits): Entry {
  const { delayMs, priority, dedupeKey } = options
  return {
    delayMs: integer('delayMs', delayMs, { otherwise: 0, least: 0, most: maxMs }),
    priority: integer('priority', priority, { otherwise: 0, least: Number.MIN_SAFE_INTEGER }),
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
