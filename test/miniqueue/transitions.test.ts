import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { Messages } from '../../src/miniqueue/messages.ts'
import { applyMutation } from '../../src/miniqueue/shape.ts'
import {
  emptyQueue, holderOf, type NewMessage, type Outcome, type QueueMutation, type QueueState, weightOf,
} from '../../src/miniqueue/state.ts'
import { directory } from './support.ts'

const at = 1000

function transition(state: QueueState, mutation: QueueMutation): Outcome {
  return applyMutation(state, mutation, directory)
}

/** The state after some mutations, and the effect of the last one. */
function after(...mutations: readonly QueueMutation[]): { state: QueueState; outcome: Outcome } {
  const state = emptyQueue()
  let outcome: Outcome = { added: [], waiting: new Set(), left: [], depth: 0, dead: 0, bytes: 0 }
  for (const mutation of mutations) outcome = transition(state, mutation)
  return { state, outcome }
}

function enqueue(...messages: ReadonlyArray<Partial<NewMessage>>): QueueMutation {
  return { op: 'enqueue', at, messages: messages.map((message) => ({ payload: 'x', bytes: 3, ...message })) }
}

const deliver: QueueMutation = { op: 'deliver', ids: [1] }
const bury: QueueMutation = { op: 'bury', ids: [1], reason: 'worn out', at: 5000 }

describe('enqueue', () => {
  test('assigns ids and places in order and omits default values', () => {
    const { state, outcome } = after(enqueue({ payload: { a: 1 }, bytes: 7 }, { priority: 2, dueAt: 1500, key: 'k' }))
    expect(state).toEqual({
      nextId: 3,
      nextOrder: 3,
      messages: {
        1: { payload: { a: 1 }, bytes: 7, priority: 0, order: 1, enqueuedAt: at, attempts: 0 },
        2: { payload: 'x', bytes: 3, priority: 2, order: 2, enqueuedAt: at, attempts: 0, key: 'k', dueAt: 1500 },
      },
      dead: {},
      keys: { 'key:k': { id: 2 } },
      expiring: [],
    })
    expect(outcome).toMatchObject({ added: [1, 2], waiting: new Set([1, 2]), left: [], depth: 2, dead: 0 })
  })

  test('treats keys named like properties of every object as ordinary keys', () => {
    const { state } = after(enqueue({ key: '__proto__' }, { key: 'constructor' }, { key: '7' }))
    expect(['__proto__', 'constructor', '7', 'toString'].map((key) => holderOf(state, key, at))).toEqual([1, 2, 3, undefined])
    expect(JSON.parse(JSON.stringify(state))).toEqual(state)
  })
})

describe('deliver', () => {
  test('counts an attempt, and clears delay and reason', () => {
    const { state, outcome } = after(
      enqueue({}), deliver, { op: 'nack', id: 1, dueAt: 1200, reason: 'later' }, deliver,
    )
    expect(state.messages[1]).toEqual({ payload: 'x', bytes: 3, priority: 0, order: 1, enqueuedAt: at, attempts: 2 })
    expect(outcome).toMatchObject({ waiting: new Set(), left: [], depth: 0, bytes: -(12 + 'later'.length) })
  })
})

describe('return', () => {
  test('refunds the last attempt, but restores neither delay nor reason', () => {
    const nack: QueueMutation = { op: 'nack', id: 1, dueAt: 1200, reason: 'later' }
    const { state, outcome } = after(enqueue({}), deliver, nack, deliver, { op: 'return', ids: [1] })
    expect(state.messages[1]).toEqual({ payload: 'x', bytes: 3, priority: 0, order: 1, enqueuedAt: at, attempts: 1 })
    expect(outcome).toEqual({ added: [], waiting: new Set(), left: [], depth: 0, dead: 0, bytes: 0 })
  })

  test('never goes below zero attempts', () => {
    const { state } = after(enqueue({}), { op: 'return', ids: [1] })
    expect(state.messages[1]?.attempts).toBe(0)
  })
})

describe('batch', () => {
  test('applies its steps in order and reports all of them', () => {
    const { state, outcome } = after(enqueue({}, {}, {}), { op: 'deliver', ids: [1, 2] }, {
      op: 'batch',
      steps: [{ op: 'ack', ids: [1] }, { op: 'nack', id: 2, reason: 'busy' }, { op: 'deliver', ids: [3] }],
    })
    expect(state.messages).toMatchObject({ 2: { attempts: 1, reason: 'busy' }, 3: { attempts: 1 } })
    expect(outcome).toMatchObject({ added: [], waiting: new Set([2]), left: [1], depth: -1, dead: 0 })
  })

  test('a message delivered by the mutation that adds it is never waiting', () => {
    const add = { op: 'enqueue', at, messages: [{ payload: 'x', bytes: 3 }, { payload: 'y', bytes: 3 }] } as const
    const { state, outcome } = after({ op: 'batch', steps: [add, { op: 'deliver', ids: [2] }] })
    expect(state.messages).toMatchObject({ 1: { attempts: 0 }, 2: { attempts: 1 } })
    expect(outcome).toMatchObject({ added: [1, 2], waiting: new Set([1]), depth: 2 })
  })

  test('with a step of another version is refused as a whole', () => {
    const { state } = after(enqueue({}))
    const before = structuredClone(state)
    const steps = [{ op: 'ack', ids: [1] }, { op: 'split', ids: [1] }]
    expect(() => transition(state, { op: 'batch', steps } as never)).toThrow(/mutation of a queue, got .*split/)
    expect(state).toEqual(before)
  })
})

describe('ack', () => {
  test('removes the message and frees its key', () => {
    const { state, outcome } = after(enqueue({ key: 'k' }), deliver, { op: 'ack', ids: [1] })
    expect(state).toEqual({ ...emptyQueue(), nextId: 2, nextOrder: 2 })
    expect(outcome).toMatchObject({ waiting: new Set(), left: [1], depth: -1 })
  })

  test('keeps the key until its time, and a later enqueue drops it', () => {
    const { state } = after(enqueue({ key: 'k' }), { op: 'ack', ids: [1], keysUntil: 3000 })
    expect(state.expiring).toEqual([{ key: 'k', until: 3000 }])
    expect([2999, 3000].map((now) => holderOf(state, 'k', now))).toEqual([1, undefined])
    transition(state, { op: 'enqueue', at: 3000, messages: [] })
    expect([state.keys, state.expiring]).toEqual([{}, []])
  })

  test('a key taken again after its time is not dropped with the old one', () => {
    const { state } = after(
      enqueue({ key: 'k' }, { key: 'a' }, { key: 'b' }),
      { op: 'ack', ids: [1], keysUntil: 3000 },
      { op: 'ack', ids: [2, 3], keysUntil: 9000 },
      { op: 'enqueue', at: 3000, messages: [{ payload: 0, bytes: 1, key: 'k' }] },
    )
    expect([state.keys['key:k'], state.expiring.length]).toEqual([{ id: 4 }, 3])
    transition(state, { op: 'enqueue', at: 9000, messages: [] })
    expect([state.keys, state.expiring]).toEqual([{ 'key:k': { id: 4 } }, []])
  })
})

describe('nack', () => {
  test('returns the message to its place with its due time and reason', () => {
    const { state, outcome } = after(enqueue({}, {}), deliver, { op: 'nack', id: 1, dueAt: 9000, reason: 'busy' })
    expect(state.messages[1]).toMatchObject({ order: 1, attempts: 1, dueAt: 9000, reason: 'busy' })
    expect(outcome).toMatchObject({ waiting: new Set([1]), left: [], depth: 0, bytes: 12 + 4 })
  })
})

describe('bury, redrive, discard', () => {
  test('a dead letter has its reason and time, and frees its key', () => {
    const { state, outcome } = after(enqueue({ key: 'k', priority: 3 }), deliver, bury)
    expect(state.dead).toEqual({
      1: { payload: 'x', bytes: 3, priority: 3, enqueuedAt: at, attempts: 1, key: 'k', reason: 'worn out', diedAt: 5000 },
    })
    expect([state.messages, state.keys]).toEqual([{}, {}])
    expect(outcome).toMatchObject({ waiting: new Set(), left: [1], depth: -1, dead: 1, bytes: 12 + 'worn out'.length })
  })

  test('a redriven message has its id, a place at the end, no attempts, and its key', () => {
    const { state, outcome } = after(enqueue({ key: 'k' }, {}), deliver, bury, { op: 'redrive', ids: [1] })
    expect(state.messages[1]).toEqual({
      payload: 'x', bytes: 3, priority: 0, order: 3, enqueuedAt: at, attempts: 0, key: 'k',
    })
    expect([state.dead, state.keys]).toEqual([{}, { 'key:k': { id: 1 } }])
    expect(outcome).toMatchObject({ waiting: new Set([1]), left: [], depth: 1, dead: -1 })
  })

  test('a redriven message neither takes its key from another message nor frees it', () => {
    const { state } = after(
      enqueue({ key: 'k' }), bury, enqueue({ key: 'k' }), { op: 'redrive', ids: [1] }, { op: 'ack', ids: [1], keysUntil: 9000 },
    )
    expect([state.keys, state.expiring]).toEqual([{ 'key:k': { id: 2 } }, []])
  })

  test.each<[string, number | undefined, number]>([
    ['is not taken while it is kept for another message that is done', 8999, 2],
    ['is taken when that time is over, also before it is swept', 9000, 1],
    ['is taken by a journal of 0.3.0, which has no time for it', undefined, 1],
  ])('the key of a redriven message %s', (_, redrivenAt, holder) => {
    const { state } = after(
      enqueue({ key: 'k' }), bury, enqueue({ key: 'k' }), { op: 'ack', ids: [2], keysUntil: 9000 },
      { op: 'redrive', ids: [1], ...(redrivenAt !== undefined && { at: redrivenAt }) },
    )
    expect(state.keys['key:k']?.id).toBe(holder)
    transition(state, { op: 'ack', ids: [1] })
    expect(holderOf(state, 'k', 8999)).toBe(holder === 2 ? 2 : undefined)
  })

  test('a discarded message is gone', () => {
    const { state, outcome } = after(enqueue({}), bury, { op: 'discard', ids: [1] })
    expect(state).toEqual({ ...emptyQueue(), nextId: 2, nextOrder: 2 })
    expect(outcome).toMatchObject({ waiting: new Set(), left: [], depth: 0, dead: -1 })
  })
})

describe('purge', () => {
  test('removes all messages except the excluded ones, with their keys, and no dead letters', () => {
    const { state, outcome } = after(
      enqueue({}, { key: 'in flight' }, { key: 'k', dueAt: 9999 }), bury, { op: 'purge', except: [2] },
    )
    expect(Object.keys(state.messages)).toEqual(['2'])
    expect(Object.keys(state.keys)).toEqual(['key:in flight'])
    expect(Object.keys(state.dead)).toEqual(['1'])
    expect(outcome).toMatchObject({ left: [3], depth: -1, dead: 0 })
  })
})

describe('any transition', () => {
  test('ignores ids that do not exist', () => {
    const before = after(enqueue({}), { op: 'ack', ids: [1] }).state
    for (const op of ['deliver', 'return', 'ack', 'redrive', 'discard'] as const) transition(before, { op, ids: [1, 99] })
    transition(before, { op: 'nack', id: 1, dueAt: 1 })
    transition(before, bury)
    expect(before).toEqual({ ...emptyQueue(), nextId: 2, nextOrder: 2 })
  })

  test('refuses a mutation of another version and leaves the state unchanged', () => {
    const state = emptyQueue()
    expect(() => transition(state, { op: 'split', ids: [1] } as never)).toThrow(/mutation of a queue, got .*split/)
    expect(state).toEqual(emptyQueue())
  })

  test('the weight of a queue is its size in a snapshot or slightly more, whatever its strings', () => {
    const texts = fc.oneof(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 1000 }),
      fc.constantFrom('"', '\\', '\u0001', 'ü', '日', '😀', '\ud800', 'k').chain((unit) => (
        fc.integer({ min: 1, max: 1000 }).map((count) => unit.repeat(count))
      )),
    )
    const message = fc.record({
      payload: fc.oneof(fc.constant(1), texts),
      priority: fc.constantFrom(undefined, 7, Number.MIN_SAFE_INTEGER),
      dueAt: fc.constantFrom(undefined, 1_893_456_000_000),
      key: fc.oneof(fc.constant(undefined), texts),
      reason: fc.oneof(fc.constant(undefined), texts),
      end: fc.constantFrom('none', 'nack', 'bury', 'redrive', 'ack', 'keep'),
    })
    fc.assert(fc.property(message, fc.constantFrom(1, 1_000_000_000), (one, nextId) => {
      const state = { ...emptyQueue(), nextId, nextOrder: nextId }
      const empty = JSON.stringify(state).length
      const now = 1_893_456_000_000
      const { payload, priority, dueAt, key, reason = 'none', end } = one
      const bytes = Buffer.byteLength(JSON.stringify(payload))
      const messages = [{
        payload, bytes, ...(priority !== undefined && { priority }), ...(dueAt !== undefined && { dueAt }), ...(key !== undefined && { key }),
      }]
      const ids = [nextId]
      let weight = transition(state, { op: 'enqueue', at: now, messages }).bytes
      if (end !== 'none') weight += transition(state, { op: 'deliver', ids }).bytes
      if (end === 'nack') weight += transition(state, { op: 'nack', id: nextId, dueAt: now, reason }).bytes
      if (end === 'bury' || end === 'redrive') weight += transition(state, { op: 'bury', ids, reason, at: now }).bytes
      if (end === 'redrive') {
        const change = transition(state, { op: 'redrive', ids, at: now }).bytes
        expect(change).toBeLessThanOrEqual(0)
        weight += change
      }
      if (end === 'ack') weight += transition(state, { op: 'ack', ids }).bytes
      if (end === 'keep') weight += transition(state, { op: 'ack', ids, keysUntil: now }).bytes
      const stored = Buffer.byteLength(JSON.stringify(state)) - empty
      expect(weight).toBeGreaterThanOrEqual(stored)
      expect(weight).toBeLessThanOrEqual(2.5 * stored + 40)
      expect(new Messages(state, { wallMs: now }).bytes).toBe(weight)
    }), { numRuns: 500 })
  })

  test('reports weight changes that add up to the total weight', () => {
    const state = emptyQueue()
    const mutations: QueueMutation[] = [
      enqueue({ key: 'one' }, { bytes: 100 }, { dueAt: 2000 }), deliver, { op: 'nack', id: 1, reason: 'why' },
      deliver, bury, { op: 'ack', ids: [2] }, { op: 'redrive', ids: [1] },
    ]
    const sum = mutations.reduce((bytes, mutation) => bytes + transition(state, mutation).bytes, 0)
    const weight = Object.values(state.messages).reduce((bytes, message) => bytes + weightOf(message), 0)
    expect(sum).toBe(weight)
    const kept = transition(state, { op: 'ack', ids: [1, 3], keysUntil: 4000 }).bytes
    expect(sum + kept).toBeGreaterThan(0)
    expect(sum + kept + transition(state, { op: 'enqueue', at: 4000, messages: [] }).bytes).toBe(0)
  })

  test('many kept keys are dropped soon after their time, whatever the clock did meanwhile', () => {
    const state = emptyQueue()
    let now = at
    for (let n = 1; n <= 500; n++) {
      now += n === 250 ? -400 : 10
      transition(state, { op: 'enqueue', at: now, messages: [{ payload: n, bytes: 1, key: `k${n}` }] })
      transition(state, { op: 'ack', ids: [n], keysUntil: now + 100 })
      expect(holderOf(state, `k${n}`, now)).toBe(n)
    }
    // A window holds 10 keys; keys of the clock jump stay until the clock reaches their time again.
    expect(state.expiring.length).toBeLessThanOrEqual(30)
    expect(Object.keys(state.keys)).toHaveLength(state.expiring.length)
  })
})
