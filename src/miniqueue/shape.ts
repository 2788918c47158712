import { MiniStoreError } from '../errors.ts'
import { isObject } from '../options.ts'
import { notSerializable, refusePromise, toJson } from '../schema.ts'
import { emptyQueue, keyName, type OneMutation, type QueueMutation, type QueueState } from './state.ts'

// The content of a file may be forged. An id such as `__proto__` would lead to the prototype of
// every object, and a time beyond the range of `Date` would make code that shows it throw. So no
// value from a file is used as a name or a number before its shape is checked. Unknown fields may
// come from a later version, and stay.

type Check = (value: unknown) => boolean

/** Highest accepted id. No queue ever counts that far, so all its numbers stay exact. */
const mostIds = 2 ** 52
/** The range of a `Date`, in milliseconds before and after 1970. */
const mostMs = 8.64e15

const isInteger: Check = Number.isSafeInteger
const isCount: Check = (value) => isInteger(value) && (value as number) >= 0
const isId: Check = (value) => isInteger(value) && (value as number) >= 1 && (value as number) <= mostIds
const isTime: Check = (value) => typeof value === 'number' && Math.abs(value) <= mostMs
const isText: Check = (value) => typeof value === 'string'
const isPayload: Check = (value) => value !== undefined && !isTooDeep(value)
const isRecord: Check = (value) => isObject(value) && !Array.isArray(value)

function optional(check: Check): Check {
  return (value) => value === undefined || check(value)
}

function listOf(check: Check): Check {
  return (value) => Array.isArray(value) && value.every(check)
}

/** The name of the first field that fails its check; undefined if all pass. */
function badField(value: unknown, fields: ReadonlyArray<readonly [name: string, check: Check]>): string | undefined {
  return fields.find(([name, check]) => !check(Reflect.get(value as object, name)))?.[0]
}

function recordOf(fields: Readonly<Record<string, Check>>): Check {
  const entries = Object.entries(fields)
  return (value) => isRecord(value) && badField(value, entries) === undefined
}

const isIds = listOf(isId)
const stored = { payload: isPayload, bytes: isCount, key: optional(isText) }
const isNewMessage = recordOf({ ...stored, priority: optional(isInteger), dueAt: optional(isTime) })

/** The fields of each mutation, besides its `op`. */
const mutationFields: Readonly<Record<OneMutation['op'], ReadonlyArray<readonly [string, Check]>>> = {
  enqueue: [['at', isTime], ['messages', listOf(isNewMessage)]],
  deliver: [['ids', isIds]],
  return: [['ids', isIds]],
  ack: [['ids', isIds], ['keysUntil', optional(isTime)]],
  nack: [['id', isId], ['dueAt', optional(isTime)], ['reason', optional(isText)]],
  bury: [['ids', isIds], ['reason', isText], ['at', isTime]],
  redrive: [['ids', isIds], ['at', optional(isTime)]],
  discard: [['ids', isIds]],
  purge: [['except', isIds]],
}

/** @throws {TypeError} if the value is not a mutation of a queue, or is one of a later version. */
export function assertMutation(value: unknown): asserts value is QueueMutation {
  const isBatch = isRecord(value) && opOf(value) === 'batch'
  if (!isBatch) return assertOne(value)
  const steps: unknown = Reflect.get(value as object, 'steps')
  if (!Array.isArray(steps)) throw notMutation('a batch', 'steps')
  for (const step of steps as unknown[]) {
    assertOne(step)
    if (step.op === 'purge') throw notMutation('a batch', 'steps')
  }
}

function assertOne(value: unknown): asserts value is OneMutation {
  const op = isRecord(value) ? opOf(value) : undefined
  if (typeof op !== 'string' || !Object.hasOwn(mutationFields, op)) {
    throw new TypeError(`Expected a mutation of a queue, got ${op === undefined ? 'something else' : `one named ${nameOf(op)}`}`)
  }
  const bad = badField(value, mutationFields[op as OneMutation['op']])
  if (bad !== undefined) throw notMutation(nameOf(op), bad)
}

function opOf(value: unknown): unknown {
  return Reflect.get(value as object, 'op')
}

function nameOf(op: unknown): string {
  return typeof op === 'string' ? JSON.stringify(op.slice(0, 100)) : `a ${typeof op}`
}

function notMutation(what: string, field: string): TypeError {
  return new TypeError(`Expected a mutation of a queue, got ${what} whose \`${field}\` no queue writes`)
}

const anyMessage = { ...stored, priority: isInteger, enqueuedAt: isTime, attempts: isCount }
const isMessage = recordOf({ ...anyMessage, order: isId, dueAt: optional(isTime), reason: optional(isText) })
const isDead = recordOf({ ...anyMessage, reason: isText, diedAt: isTime })
const isHolder = recordOf({ id: isId, until: optional(isTime) })
const isKeyName: Check = (name) => (name as string).startsWith(keyName(''))
const isExpiring = recordOf({ key: isText, until: isTime })

/** States that passed the check. Transitions keep a valid state valid, so one check is enough. */
const known = new WeakSet<object>()

/**
 * Checks a state that may come from a file. It must be called before the state is used. For a state
 * that passed before, it costs nothing.
 *
 * @param path the directory of the queue, for the error.
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if the state is not that of a queue.
 */
export function assertQueue(state: unknown, path: string): asserts state is QueueState {
  if (isObject(state) && known.has(state)) return
  const missing = Object.keys(emptyQueue()).filter((name) => !isObject(state) || !Object.hasOwn(state, name))
  if (missing.length > 0) {
    const text = `${path} holds the state of something else than a queue: it has no ${missing.join(', ')}`
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', text, { path })
  }
  const bad = badPlace(state as QueueState)
  if (bad !== undefined) {
    const text = `${path} holds a state that no queue has written: ${bad} is not what it should be`
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', text, { path })
  }
  known.add(state as QueueState)
}

/** Names the first part of a state that is invalid; undefined if the state is valid. */
function badPlace(state: QueueState): string | undefined {
  if (!isId(state.nextId)) return '`nextId`'
  if (!isId(state.nextOrder)) return '`nextOrder`'
  const isOwnId: Check = (name) => String(Number(name)) === name && isId(Number(name)) && Number(name) < state.nextId
  const isAlive: Check = (name) => isOwnId(name) && !(isRecord(state.dead) && Object.hasOwn(state.dead, name as string))
  return (
    badEntry('messages', state.messages, { isName: isAlive, isValue: isMessage }) ??
    badEntry('dead', state.dead, { isName: isOwnId, isValue: isDead }) ??
    badEntry('keys', state.keys, { isName: isKeyName, isValue: isHolder }) ??
    (listOf(isExpiring)(state.expiring) ? undefined : '`expiring`')
  )
}

function badEntry(
  name: string,
  record: unknown,
  { isName, isValue }: { readonly isName: Check; readonly isValue: Check },
): string | undefined {
  if (!isRecord(record)) return `\`${name}\``
  for (const key of Object.keys(record as object)) {
    if (!isName(key) || !isValue(Reflect.get(record as object, key))) return `${nameOf(key)} of \`${name}\``
  }
  return undefined
}

/** A serialized payload. Later changes to the original object have no effect on it. */
export interface EncodedPayload {
  readonly json: string
  /** Length of `json` in UTF-8, in bytes. */
  readonly bytes: number
}

/**
 * Most levels of nesting in a payload. Real data has far fewer, and `JSON.stringify` and snapshots
 * can handle far more. Without a limit, `enqueue` could accept a payload on which every snapshot,
 * with less of the stack left, would fail.
 */
const maxLevels = 500

/**
 * Serializes a payload.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE` or `…_RECORD_TOO_LARGE`.
 */
export function encodePayload(payload: unknown, maxBytes: number): EncodedPayload {
  refusePromise(payload, 'payload')
  const json = toJson(payload, 'payload')
  const bytes = Buffer.byteLength(json)
  if (bytes > maxBytes) {
    const message = `Expected a payload of at most ${maxBytes} bytes (maxPayloadBytes), got one of ${bytes}`
    throw new MiniStoreError('ERR_MINISTORE_RECORD_TOO_LARGE', message)
  }
  // Each level takes at least two characters, so a short text needs no check.
  if (json.length > 2 * maxLevels && isTooDeep(JSON.parse(json))) {
    throw notSerializable('payload', `it is nested deeper than ${maxLevels} levels`)
  }
  return { json, bytes }
}

/** Copies a payload of the state, so that the caller may change the copy. */
export function copyPayload(payload: unknown): unknown {
  return isObject(payload) ? (JSON.parse(JSON.stringify(payload)) as unknown) : payload
}

/** Whether a payload is nested so deeply that `JSON.stringify` or a snapshot might fail on it. */
export function isTooDeep(payload: unknown): boolean {
  return isDeeper(payload, maxLevels)
}

function isDeeper(value: unknown, levels: number): boolean {
  if (!isObject(value)) return false
  return levels === 0 || Object.values(value).some((entry) => isDeeper(entry, levels - 1))
}
