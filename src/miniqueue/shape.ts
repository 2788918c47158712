import { MiniStoreError } from '../errors.ts'
import { isObject } from '../options.ts'
import {
  emptyQueue, keyName, type OneMutation, type Outcome, type QueueMutation, type QueueState, transition,
} from './state.ts'

// The content of a file may be forged. An id such as `__proto__` would lead to the prototype of
// every object, and a time beyond the range of `Date` would make code that shows it throw. So no
// value from a file is used as a name or a number before its shape is checked. Unknown fields may
// come from a later version, and stay.

/**
 * Applies a mutation to the state of the queue in a directory, in place, and returns what has
 * changed. State and mutation may come from files, so both are checked first.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if the state is not that of a queue.
 * @throws {TypeError} if the mutation is invalid or of a later version. The state is unchanged.
 */
export function applyMutation(state: unknown, mutation: unknown, path: string): Outcome {
  assertQueue(state, path)
  assertMutation(mutation)
  return transition(state, mutation)
}

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
const isLimit: Check = (value) => isInteger(value) && (value as number) >= 1
const isHeaders: Check = (value) => isRecord(value) && Object.values(value as object).every(isText)
const stored = {
  payload: isPayload, bytes: isCount, key: optional(isText), maxAttempts: optional(isLimit), headers: optional(isHeaders),
}
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
  cancel: [['ids', isIds]],
  purge: [['except', isIds]],
}

/** @throws {TypeError} if the value is not a mutation of a queue, or is one of a later version. */
export function assertMutation(value: unknown): asserts value is QueueMutation {
  if (opOf(value) !== 'batch') return assertOne(value)
  const steps: unknown = Reflect.get(value as object, 'steps')
  if (!Array.isArray(steps)) throw notMutation('a batch', 'steps')
  for (const step of steps as unknown[]) {
    assertOne(step)
    if (step.op === 'purge') throw notMutation('a batch', 'steps')
  }
}

function assertOne(value: unknown): asserts value is OneMutation {
  const op = opOf(value)
  if (typeof op !== 'string' || !Object.hasOwn(mutationFields, op)) {
    const got = op === undefined ? 'something else' : `one named ${nameOf(op)}`
    throw new TypeError(`Expected a mutation of a queue, got ${got}`)
  }
  const bad = badField(value, mutationFields[op as OneMutation['op']])
  if (bad !== undefined) throw notMutation(nameOf(op), bad)
}

function opOf(value: unknown): unknown {
  return isRecord(value) ? Reflect.get(value as object, 'op') : undefined
}

function nameOf(op: unknown): string {
  return typeof op === 'string' ? JSON.stringify(op.slice(0, 100)) : `a ${typeof op}`
}

function notMutation(what: string, field: string): TypeError {
  return new TypeError(`Expected a mutation of a queue, got ${what} with an invalid \`${field}\``)
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
  const bad = missing.length > 0 ? missing.map((name) => `no \`${name}\``).join(', ') : badPlace(state as QueueState)
  if (bad !== undefined) {
    const message = `The state in ${path} is not that of a queue: it has ${bad}`
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path })
  }
  known.add(state as QueueState)
}

/** Describes the first invalid part of a state; undefined if the state is valid. */
function badPlace(state: QueueState): string | undefined {
  if (!isId(state.nextId)) return 'an invalid `nextId`'
  if (!isId(state.nextOrder)) return 'an invalid `nextOrder`'
  const isOwnId: Check = (name) => String(Number(name)) === name && isId(Number(name)) && Number(name) < state.nextId
  const isAlive: Check = (name) => isOwnId(name) && !(isRecord(state.dead) && Object.hasOwn(state.dead, name as string))
  return (
    badEntry('messages', state.messages, { isName: isAlive, isValue: isMessage }) ??
    badEntry('dead', state.dead, { isName: isOwnId, isValue: isDead }) ??
    badEntry('keys', state.keys, { isName: isKeyName, isValue: isHolder }) ??
    (listOf(isExpiring)(state.expiring) ? undefined : 'an invalid `expiring`')
  )
}

function badEntry(
  name: string,
  record: unknown,
  { isName, isValue }: { readonly isName: Check; readonly isValue: Check },
): string | undefined {
  if (!isRecord(record)) return `an invalid \`${name}\``
  for (const key of Object.keys(record as object)) {
    if (!isName(key) || !isValue(Reflect.get(record as object, key))) return `an invalid ${nameOf(key)} in \`${name}\``
  }
  return undefined
}


/**
 * Most levels of nesting in a payload. Real data has far fewer, and `JSON.stringify` and snapshots
 * can handle far more. Without a limit, `enqueue` could accept a payload on which every snapshot,
 * with less of the stack left, would fail.
 */
export const maxLevels = 500

/** Whether a payload is nested so deeply that `JSON.stringify` or a snapshot might fail on it. */
export function isTooDeep(payload: unknown, levels: number = maxLevels): boolean {
  if (!isObject(payload)) return false
  return levels === 0 || Object.values(payload).some((entry) => isTooDeep(entry, levels - 1))
}
