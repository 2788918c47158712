import { describe, expect, test } from 'vitest'

import { Messages } from '../../src/miniqueue/messages.ts'
import { emptyQueue, type QueueMutation, type QueueState, transition } from '../../src/miniqueue/state.ts'

const at = 1000

/** The messages of a state as it is found at this time. A message that was delivered is in flight. */
function messagesOf(state: QueueState): Messages {
  return new Messages(state, { wallMs: at, maxAttempts: 1, endsAt: at })
}

/** A state of this many messages, each a second later than the one before, and its index. */
function indexOf(count: number): { state: QueueState; index: Messages; apply: (mutation: QueueMutation) => void } {
  const state = emptyQueue()
  const messages = Array.from({ length: count }, (_, n) => ({ payload: n, bytes: 1, ...(n > 0 && { dueAt: at + n * 1000 }) }))
  transition(state, { op: 'enqueue', at, messages })
  const index = messagesOf(state)
  const apply = (mutation: QueueMutation): void => index.follow(mutation, transition(state, mutation))
  return { state, index, apply }
}

describe('Messages', () => {
  test('built from an opened state equals an index that followed every change', () => {
    const { state, index, apply } = indexOf(5)
    apply({ op: 'bury', ids: index.take(1), reason: 'no', at })
    apply({ op: 'enqueue', at, messages: [{ payload: 'x', bytes: 3, key: 'k' }] })
    apply({ op: 'ack', ids: index.take(1), keysUntil: 9000 })
    const opened = messagesOf(state)
    for (const each of [index, opened]) {
      expect([each.depth, each.delayed, each.dead, each.bytes, each.hasReady, each.nextDueAt, each.oldest?.payload]).toEqual([
        4, 4, 1, index.bytes, false, 2000, 1,
      ])
    }
    expect(index.bytes).toBeGreaterThan(0)
  })

  test('promotes due messages in enqueue order, whatever the order of their due times', () => {
    const { index, apply } = indexOf(1)
    index.take(1)
    apply({ op: 'enqueue', at, messages: [{ payload: 0, bytes: 1, dueAt: 3000 }, { payload: 0, bytes: 1, dueAt: 2000 }] })
    index.promote(1999)
    expect(index.take(9)).toEqual([])
    index.promote(3000)
    expect([index.take(9), index.nextDueAt]).toEqual([[2, 3], undefined])
  })

  test('keeps messages without attempts left in flight, delayed or not', () => {
    const { state } = indexOf(3)
    transition(state, { op: 'deliver', ids: [1, 3] })
    transition(state, { op: 'nack', id: 3, dueAt: at + 1000 })
    const index = messagesOf(state)
    expect([index.depth, index.delayed, index.take(9), [...index.inFlight.keys()]]).toEqual([3, 1, [], [1, 3]])
  })

  test('forgets that an attempt is unused when its message is removed', () => {
    const { index, apply } = indexOf(1)
    index.requeue(index.take(1), { isUnused: true })
    expect(index.hasUnusedAttempt(1)).toBe(true)
    apply({ op: 'purge', except: [] })
    expect([index.hasUnusedAttempt(1), index.depth]).toEqual([false, 0])
  })
})
