import { constants } from 'node:buffer'

import { MiniStoreError } from '../errors.ts'
import { fields, integer, isObject, maxMs, shown } from '../options.ts'
import { ignoreOutcome, isThenable } from '../async.ts'
import { notSerializable, refusePromise, toJson, validated } from '../schema.ts'
import type { EnqueueOptions, QueueSettings } from './settings.ts'
import { isTooDeep, maxLevels } from './shape.ts'
import {
  type EnqueueStep, type Headers, holderOf, type NewMessage, type QueueState, weightOf, weightOfReason,
} from './state.ts'

/** A message for `enqueueAll`: its payload together with the options of `enqueue`. */
export interface MessageToEnqueue<T> extends EnqueueOptions {
  /** Stored as JSON. */
  readonly payload: T
}

/**
 * A message as it was when `enqueue` was called, validated and serialized. Later changes to the
 * payload object have no effect on it.
 */
export interface Entry {
  /** The payload as its JSON gives it. The state keeps this object, and shares it with no caller. */
  readonly payload: unknown
  readonly json: string
  /** Length of `json` in UTF-8, in bytes. */
  readonly bytes: number
  readonly delayMs: number
  readonly priority: number
  readonly key: string | undefined
  readonly maxAttempts: number | undefined
  readonly headers: Headers | undefined
  /** Rejects if the payload fails an asynchronous schema. */
  readonly validation: Promise<unknown> | undefined
}

/** What a call of `enqueue` writes. */
export interface EnqueuePlan {
  /** The messages to write; none if every message is in the queue already. */
  readonly step: EnqueueStep
  /**
   * Returns the step as `JSON.stringify` does, made of the JSON that each payload already has. Must
   * be called after {@link refuseFull}, because more than that has no room in a string.
   */
  readonly text: () => string
  /** For each entry of the call, in order: the id of its new message, or of the one with its key. */
  readonly ids: number[]
}

type Limits = Pick<QueueSettings, 'maxPayloadBytes' | 'schema'>

/**
 * Approximate limit, in bytes, of everything in a queue. A larger queue would bring the text of a
 * snapshot near the longest string of the platform, beyond which no snapshot can be written.
 */
const maxLiveBytes = Math.floor(constants.MAX_STRING_LENGTH * 0.85)
/** The limit including reasons of nacks and dead letters, which are added to a full queue too. */
const maxBytesWithReasons = Math.floor(constants.MAX_STRING_LENGTH * 0.95)
const maxKeyLength = 1024
const maxHeadersBytes = 16 * 1024

/**
 * Validates and serializes a message for `enqueue`.
 *
 * @throws {TypeError | RangeError} if an option is invalid.
 * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE` or `…_SCHEMA` if
 *   the payload cannot be stored.
 */
export function entryOf(payload: unknown, options: unknown, { maxPayloadBytes, schema }: Limits): Entry {
  const { delayMs, priority, dedupeKey, maxAttempts, headers } = fields(
    options, ['delayMs', 'priority', 'dedupeKey', 'maxAttempts', 'headers'],
  )
  const checked = {
    delayMs: integer('delayMs', delayMs, { default: 0, min: 0, max: maxMs }),
    priority: integer('priority', priority, { default: 0, min: Number.MIN_SAFE_INTEGER }),
    key: keyOption(dedupeKey),
    maxAttempts: maxAttempts === undefined ? undefined : attemptsOption(maxAttempts),
    headers: headersOption(headers),
    ...serialized(payload, maxPayloadBytes),
  }
  if (schema === undefined) return { ...checked, validation: undefined }
  // The schema gets a copy, because it may change its input.
  const valid = validated(schema, JSON.parse(checked.json), () => ({ subject: 'The payload', context: {} }))
  if (!isThenable(valid)) return { ...checked, validation: undefined }
  // Awaited only in the turn of the call. Until then a rejection must not count as unhandled.
  ignoreOutcome(valid)
  return { ...checked, validation: Promise.resolve(valid) }
}

/** Like {@link entryOf}, for a message of `enqueueAll`. */
export function entryOfMessage(message: unknown, limits: Limits): Entry {
  if (!isObject(message) || !('payload' in message)) {
    throw new TypeError(`Expected a message to be an object with a \`payload\`, got ${shown(message)}`)
  }
  // Own properties only, as for all options.
  const { payload, ...options } = { ...message } as { readonly payload?: unknown }
  return entryOf(payload, options, limits)
}

/**
 * Decides by their keys which of the messages are new. A key may be held by a message in the queue,
 * or by an earlier message of the same call. Must be called in the turn that writes the plan.
 *
 * This and the check of the depth do not run in `validate`: they need a clock, and the result may
 * be that nothing is written.
 */
export function planEnqueue(
  entries: readonly Entry[],
  { state, at }: { readonly state: QueueState; readonly at: number },
): EnqueuePlan {
  const messages: NewMessage[] = []
  const texts: string[] = []
  const added = new Map<string, number>()
  const ids = entries.map(({ payload, json, bytes, priority, delayMs, key, maxAttempts, headers }) => {
    const known = key === undefined ? undefined : (holderOf(state, key, at) ?? added.get(key))
    if (known !== undefined) return known
    const id = state.nextId + messages.length
    if (key !== undefined) added.set(key, id)
    const others = {
      bytes,
      ...(priority !== 0 && { priority }),
      ...(delayMs > 0 && { dueAt: at + delayMs }),
      ...(key !== undefined && { key }),
      ...(maxAttempts !== undefined && { maxAttempts }),
      ...(headers !== undefined && { headers }),
    }
    messages.push({ payload, ...others })
    texts.push(`{"payload":${json},${JSON.stringify(others).slice(1)}`)
    return id
  })
  const text = (): string => `{"op":"enqueue","at":${at},"messages":[${texts.join(',')}]}`
  return { step: { op: 'enqueue', at, messages }, text, ids }
}

/** @throws {MiniStoreError} `ERR_MINISTORE_QUEUE_FULL` if the queue has no room for `more`. */
export function refuseFull(
  more: { readonly depth: number; readonly bytes: number },
  queue: { readonly depth: number; readonly liveBytes: number; readonly maxDepth: number },
): void {
  if (queue.depth + more.depth > queue.maxDepth) {
    throw queueFull(`${queue.depth} messages and ${more.depth} more are more than ${queue.maxDepth} (maxDepth)`)
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

/** Copies a payload of the state, so that the caller may change the copy. */
export function copyPayload(payload: unknown): unknown {
  return isObject(payload) ? (JSON.parse(JSON.stringify(payload)) as unknown) : payload
}

function keyOption(value: unknown): string | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'string') {
    throw new TypeError(`Expected \`dedupeKey\` to be a string, got ${shown(value)}`)
  }
  if (value.length >= 1 && value.length <= maxKeyLength) return value
  throw new RangeError(`Expected \`dedupeKey\` to have 1 to ${maxKeyLength} characters, got ${value.length}`)
}

function attemptsOption(value: unknown): number {
  // JSON has no Infinity.
  return Math.min(integer('maxAttempts', value, { orInfinity: true }), Number.MAX_SAFE_INTEGER)
}

function headersOption(value: unknown): Headers | undefined {
  if (value === undefined) return undefined
  if (!isObject(value) || Array.isArray(value)) throw new TypeError(`Expected \`headers\` to be an object, got ${shown(value)}`)
  const entries: Array<[string, unknown]> = Object.entries(value)
  if (entries.length === 0) return undefined
  for (const [name, text] of entries) {
    if (typeof text === 'string') continue
    throw new TypeError(`Expected the header \`${name.slice(0, 60)}\` to be a string, got ${shown(text)}`)
  }
  const headers = Object.fromEntries(entries) as Headers
  const bytes = Buffer.byteLength(JSON.stringify(headers))
  if (bytes <= maxHeadersBytes) return headers
  throw new RangeError(`Expected \`headers\` to be at most ${maxHeadersBytes} bytes of JSON, got ${bytes}`)
}

function serialized(payload: unknown, maxBytes: number): Pick<Entry, 'payload' | 'json' | 'bytes'> {
  refusePromise(payload, 'payload')
  const json = toJson(payload, 'payload')
  const bytes = Buffer.byteLength(json)
  if (bytes > maxBytes) {
    const message = `Expected a payload of at most ${maxBytes} bytes (maxPayloadBytes), got one of ${bytes}`
    throw new MiniStoreError('ERR_MINISTORE_RECORD_TOO_LARGE', message)
  }
  const parsed: unknown = JSON.parse(json)
  // Each level takes at least two characters, so a short text needs no check.
  if (json.length > 2 * maxLevels && isTooDeep(parsed)) {
    throw notSerializable('payload', `it is nested deeper than ${maxLevels} levels`)
  }
  return { payload: parsed, json, bytes }
}

/** @param more says what does not fit, and the limit. */
function queueFull(more: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_QUEUE_FULL', `The queue is full: ${more}; nothing is written`)
}
