import { describe, expect, test } from 'vitest'
import { z } from 'zod'

import { type Message, MiniQueue, type QueueOptions } from '../../src/miniqueue/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { SteppedClock } from '../crash/queue/clock.ts'
import { deferred } from '../support/deferred.ts'
import { codeOf, directory, errorOf, journalFile, quiet, recordsOf } from './support.ts'

const Mail = z.object({ to: z.email(), at: z.coerce.date().optional() })
const Old = z.object({ to: z.string() })

/** A schema that answers later, as one that asks a service does. */
const Asynchronous = Mail.refine(async () => {
  await Promise.resolve()
  return true
})

async function open<Schema extends z.ZodType>(
  schema: Schema,
  { files = new SimulatedFileSystem(), clock = new SteppedClock(), ...options }:
    Omit<QueueOptions, 'clock'> & { readonly files?: SimulatedFileSystem; readonly clock?: SteppedClock } = {},
) {
  const told: unknown[] = []
  const queue = await MiniQueue.open(directory, { fileSystem: files, clock, onError: (error) => told.push(error), ...options, schema })
  return { queue, files, clock, told }
}

/** A queue with payloads of an earlier version, of which only the second fits. */
async function withOld(schema: typeof Mail, options: Omit<QueueOptions, 'clock'> = {}) {
  const files = new SimulatedFileSystem()
  const old = await open(Old, { files })
  await old.queue.enqueueAll([{ payload: { to: 'nobody' } }, { payload: { to: 'ada@example.org' } }, { payload: { to: 'no one' } }])
  await old.queue.close()
  return await open(schema, { files, ...options })
}

describe.each([['synchronous', Mail], ['asynchronous', Asynchronous]] as const)('a schema, %s', (_, schema) => {
  test('checks a payload when it is enqueued: one that does not fit writes nothing', async () => {
    const { queue, files } = await open(schema)
    const error = await errorOf(queue.enqueue({ to: 'nobody' }))
    expect([error.code, error.message]).toEqual(['ERR_MINISTORE_SCHEMA', expect.stringMatching(/^The payload fails the schema: .* at to$/)])
    const both = [{ payload: { to: 'ada@example.org' } }, { payload: { to: 'nobody' } }]
    expect(await codeOf(queue.enqueueAll(both))).toBe('ERR_MINISTORE_SCHEMA')
    expect(recordsOf(files)).toEqual([])
    expect(await queue.enqueue({ to: 'ada@example.org' })).toBe(1)
    await queue.close()
  })

  test('gives its output to receivers, and stores its input', async () => {
    const { queue, files } = await open(schema)
    await queue.enqueue({ to: 'ada@example.org', at: '2026-01-01' })
    expect(recordsOf(files)[0]).toMatchObject({ messages: [{ payload: { to: 'ada@example.org', at: '2026-01-01' } }] })
    expect(queue.messages()).toMatchObject([{ payload: { at: '2026-01-01' } }])
    const [message] = await queue.receive()
    expect(message?.payload.at).toEqual(new Date('2026-01-01'))
    await queue.close()
  })

  test('buries a stored payload that no longer fits, with the reason, before receive gives the next', async () => {
    const { queue } = await withOld(schema)
    const messages = [...(await queue.receive()), ...(await queue.receive({ max: 5 }))]
    expect(messages.map(({ payload }) => payload)).toEqual([{ to: 'ada@example.org' }])
    const reason = expect.stringMatching(/^The stored payload fails the schema: .* at to$/) as string
    expect(queue.deadLetters()).toMatchObject([{ id: 1, attempts: 1, reason }, { id: 3, attempts: 1, reason }])
    expect(queue.stats()).toMatchObject({ ready: 0, delayed: 0, inFlight: 1, dead: 2 })
    await queue.close()
  })

  test('buries it in process and in a stream too, and no handler sees it', async () => {
    for (const way of ['process', 'consume'] as const) {
      const { queue } = await withOld(schema)
      const seen: string[] = []
      const handle = ({ to }: { to: string }): void => void seen.push(to)
      const controller = new AbortController()
      const run = way === 'process'
        ? queue.process(handle, { signal: controller.signal, concurrency: 2 })
        : (async () => {
            for await (const message of queue.consume({ prefetch: 3 })) {
              handle(message.payload)
              await message.ack()
            }
          })()
      await queue.idle()
      controller.abort()
      await queue.close()
      await run
      expect([seen, queue.stats().dead]).toEqual([['ada@example.org'], 2])
    }
  })

  test('can be loosened again: a redriven message is delivered', async () => {
    const { queue, files } = await withOld(schema)
    await queue.receive({ max: 5 })
    await queue.close()
    const again = await open(Old, { files })
    expect(await again.queue.redrive('all')).toBe(2)
    expect((await again.queue.receive({ max: 5 })).map(({ payload }) => payload.to)).toEqual(['ada@example.org', 'nobody', 'no one'])
    await again.queue.close()
  })

  test('reports a burial that cannot be written; the message comes again when its lease ends, and is buried then', async () => {
    const { queue, files, clock, told } = await withOld(schema)
    const full = files.failOn({ operation: 'write', path: journalFile, nth: 2 }, 'ENOSPC')
    const controller = new AbortController()
    const run = queue.process(() => {}, { signal: controller.signal })
    await quiet()
    expect([full.hits, told]).toMatchObject([1, [{ code: 'ERR_MINISTORE_IO' }]])
    clock.advance(30_000)
    await queue.idle()
    expect(queue.deadLetters()).toMatchObject([{ id: 1, attempts: 2 }, { id: 3, attempts: 1 }])
    controller.abort()
    await run
    await queue.close()
  })
})

describe('an asynchronous schema', () => {
  /** A schema whose answers wait for the test. */
  function gated() {
    const gate = deferred()
    const isOpen = { now: false }
    const schema = Mail.refine(async () => {
      if (isOpen.now) await gate.promise
      return true
    })
    return { schema, gate, hold: () => void (isOpen.now = true) }
  }

  test.each(['process', 'consume', 'receive'] as const)('is left by an abort of %s: no attempt is used up', async (way) => {
    const { schema, gate, hold } = gated()
    const { queue } = await open(schema, { maxAttempts: 1 })
    await queue.enqueue({ to: 'ada@example.org' })
    hold()
    const controller = new AbortController()
    const { signal } = controller
    const seen: unknown[] = []
    const use = {
      process: () => queue.process((payload) => void seen.push(payload), { signal }),
      consume: () => queue.consume({ signal }).getReader().read(),
      receive: () => queue.receive({ signal }),
    }
    const over = Promise.resolve(use[way]()).catch(() => {})
    await quiet()
    controller.abort(new Error('left'))
    gate.resolve()
    await over
    await quiet()
    expect([seen, queue.stats()]).toMatchObject([[], { ready: 1, inFlight: 0, dead: 0 }])
    const [message] = await queue.receive()
    expect((message as Message | undefined)?.attempt).toBe(1)
    await queue.close()
  })

  test('keeps the order of calls: a payload that is checked longer is written first', async () => {
    const { schema, gate, hold } = gated()
    const { queue } = await open(schema)
    hold()
    const ids = [queue.enqueue({ to: 'ada@example.org' }), queue.enqueue({ to: 'bob@example.org' })]
    gate.resolve()
    expect(await Promise.all(ids)).toEqual([1, 2])
    await queue.close()
  })
})

test('a schema that changes its input changes nothing that is stored', async () => {
  const changing = z.any().transform((value: { n: number }) => {
    value.n += 1
    return value
  })
  const { queue, files } = await open(changing)
  await queue.enqueue({ n: 1 })
  expect((await queue.receive())[0]?.payload).toEqual({ n: 2 })
  expect([queue.messages(), recordsOf(files)]).toMatchObject([[{ payload: { n: 1 } }], [{ messages: [{ payload: { n: 1 } }] }, {}]])
  await queue.close()
})

test('what is no schema is refused', async () => {
  await expect(MiniQueue.open(directory, { schema: {} } as QueueOptions)).rejects.toThrow('Expected `schema` to be a Standard Schema')
})
