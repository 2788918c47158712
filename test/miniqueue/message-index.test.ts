import { describe, expect, test } from 'vitest'

import { MessageIndex } from '../../src/miniqueue/order.ts'
import { emptyQueue, type QueueMutation, type QueueState } from '../../src/miniqueue/state.ts'
import { transition } from '../../src/miniqueue/transitions.ts'

const at = 1000

/** A state of this many messages, each a second later than the one before, and its index. */
function indexOf(count: number): { state: QueueState; index: MessageIndex; apply: (mutation: QueueMutation) => void } {
  const state = emptyQueue()
  const messages = Array.from({ length: count }, (_, n) => ({ payload: n, bytes: 1, ...(n > 0 && { dueAt: at + n * 1000 }) }))
  transition(state, { op: 'enqueue', at, messages })
  const index = new MessageIndex(state, { wallMs: at, except: [] })
  const apply = (mutation: QueueMutation): void =>
    index.follow(mutation, transition(state, mutation), () => false)
  return { state, index, apply }
}

describe('MessageIndex', () => {
  test('built from an opened state equals an index that followed every change', () => {
    const { state, index, apply } = indexOf(5)
    apply({ op: 'bury', ids: index.take(1), reason: 'no', at })
    apply({ op: 'enqueue', at, messages: [{ payload: 'x', bytes: 3, key: 'k' }] })
    apply({ op: 'ack', ids: index.take(1), keysUntil: 9000 })
    const opened = new MessageIndex(state, { wallMs: at, except: [] })
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

  test('excludes in-flight messages, delayed or not', () => {
    const { state } = indexOf(3)
    const index = new MessageIndex(state, { wallMs: at, except: [1, 3] })
    expect([index.depth, index.delayed, index.take(9)]).toEqual([3, 1, []])
  })

  test('forgets that an attempt was counted when its message is removed', () => {
    const { index, apply } = indexOf(1)
    index.giveBack(index.take(1), { isCounted: true })
    expect(index.uncounted([1])).toEqual([])
    apply({ op: 'purge', except: [] })
    expect([index.uncounted([1]), index.depth]).toEqual([[1], 0])
  })
})
