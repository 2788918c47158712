import { describe, expectTypeOf, test } from 'vitest'
import { z } from 'zod'

import {
  type Clock, type CompactionReport, type DeadLetter, type EnqueueOptions, type Handler, type ListedMessage, type Message,
  type MessageStream, type MessageToEnqueue, MiniQueue, type QueueOptions, type QueueStats,
} from '../../src/miniqueue/index.ts'

// `tsc -p tsconfig.json` checks these types; at run time the functions are never called.

interface Job {
  readonly url: string
}

describe('MiniQueue', () => {
  test('without a type it is one of unknown payloads', () => {
    const open = () => MiniQueue.open('path')
    expectTypeOf(open).returns.resolves.toEqualTypeOf<MiniQueue>()
    expectTypeOf<Message>().toHaveProperty('payload').toBeUnknown()
  })

  test('accepts and returns its type parameter', () => {
    const open = (options?: QueueOptions) => MiniQueue.open<Job>('path', options)
    expectTypeOf(open).returns.resolves.toEqualTypeOf<MiniQueue<Job>>()
    expectTypeOf<MiniQueue<Job>['enqueue']>().parameters.toEqualTypeOf<[payload: Job, options?: EnqueueOptions | undefined]>()
    expectTypeOf<MiniQueue<Job>['enqueue']>().returns.resolves.toEqualTypeOf<number>()
    expectTypeOf<MiniQueue<Job>['enqueueAll']>().parameters.toEqualTypeOf<[messages: Iterable<MessageToEnqueue<Job>>]>()
    expectTypeOf<MiniQueue<Job>['enqueueAll']>().returns.resolves.toEqualTypeOf<number[]>()
    expectTypeOf<MiniQueue<Job>['receive']>().returns.resolves.toEqualTypeOf<Array<Message<Job>>>()
    expectTypeOf<MiniQueue<Job>['consume']>().returns.toEqualTypeOf<MessageStream<Job>>()
    expectTypeOf<MiniQueue<Job>['process']>().parameter(0).toEqualTypeOf<Handler<Job>>()
    expectTypeOf<MiniQueue<Job>['process']>().returns.resolves.toEqualTypeOf<void>()
    expectTypeOf<MiniQueue<Job>['deadLetters']>().returns.toEqualTypeOf<Array<DeadLetter<Job>>>()
    expectTypeOf<MiniQueue<Job>['stats']>().returns.toEqualTypeOf<QueueStats>()
    expectTypeOf<MiniQueue<Job>['compact']>().returns.resolves.toEqualTypeOf<CompactionReport>()
    expectTypeOf<MiniQueue<Job>>().toExtend<AsyncDisposable>()
  })

  test('with a schema it takes the input and gives the output', () => {
    const open = () => MiniQueue.open('path', { schema: z.object({ at: z.string().transform((text) => new Date(text)) }) })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<MiniQueue<{ at: Date }, { at: string }>>()
    expectTypeOf<MiniQueue<{ at: Date }, { at: string }>['enqueue']>().parameter(0).toEqualTypeOf<{ at: string }>()
    expectTypeOf<MiniQueue<{ at: Date }, { at: string }>['process']>().parameter(0).toEqualTypeOf<Handler<{ at: Date }>>()
    expectTypeOf<MiniQueue<{ at: Date }, { at: string }>['messages']>().returns.toEqualTypeOf<Array<ListedMessage<{ at: string }>>>()
  })

  test('one or all dead letters are redriven and discarded', () => {
    expectTypeOf<MiniQueue<Job>['redrive']>().parameters.toEqualTypeOf<[id: number | 'all']>()
    expectTypeOf<MiniQueue<Job>['discard']>().parameters.toEqualTypeOf<[id: number | 'all']>()
    expectTypeOf<MiniQueue<Job>['discard']>().returns.resolves.toEqualTypeOf<number>()
  })

  test('a consumer is a stream and an async iterable of messages', () => {
    expectTypeOf<MessageStream<Job>>().toExtend<ReadableStream<Message<Job>>>()
    expectTypeOf<MessageStream<Job>>().toExtend<AsyncIterable<Message<Job>>>()
  })

  test('a handler may be synchronous, and need not take the message', () => {
    expectTypeOf<(job: Job) => string>().toExtend<Handler<Job>>()
    expectTypeOf<(job: Job, message: Message<Job>) => Promise<void>>().toExtend<Handler<Job>>()
  })

  test('a clock of the tests that keeps nothing alive will do', () => {
    interface SimpleClock {
      wallMs(): number
      monotonicMs(): number
      setTimer(ms: number, callback: () => void): () => void
    }
    expectTypeOf<SimpleClock>().toExtend<Clock>()
  })

  test('options may be undefined, and a backoff a function', () => {
    const options: QueueOptions = {
      visibilityTimeoutMs: undefined, backoff: (attempt) => attempt * 1000, compaction: { ratio: undefined }, journal: { lock: false },
    }
    expectTypeOf(options).toExtend<QueueOptions>()
  })

  test('refuses values of the wrong type', () => {
    // @ts-expect-error -- no such option
    const misspelled = () => MiniQueue.open('path', { visibilityTimeout: 5 })
    // @ts-expect-error -- another payload
    const other = (queue: MiniQueue<Job>) => queue.enqueue({ path: 'x' })
    // @ts-expect-error -- the payload is missing
    const empty = (queue: MiniQueue<Job>) => queue.enqueueAll([{ delayMs: 5 }])
    // @ts-expect-error -- segments are dropped by compaction alone
    const retained = () => MiniQueue.open('path', { journal: { maxSegments: 5 } })
    expectTypeOf([misspelled, other, empty, retained]).not.toBeAny()
  })
})
