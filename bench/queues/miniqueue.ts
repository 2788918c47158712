import { ownVersion } from '../contestants/ministore.ts'
import { MiniQueue } from './library.ts'
import { type OpenQueue, type QueueContestant, width, type Worker } from './queue.ts'

const receiving = 'miniqueue, receive and ack'
const processingAlone = 'miniqueue, process'
const consuming = `miniqueue, consume prefetch=${width}`
const processing = `miniqueue, process concurrency=${width}`

/** The library's queue, with default options. */
export async function miniqueue(): Promise<QueueContestant> {
  return {
    name: 'miniqueue',
    version: ownVersion(),
    promise:
      'one `fdatasync` for each call; `process` writes acks that wait, and what is delivered next, together; ' +
      'the attempt is durable before the handler',
    blocksEventLoop: false,
    waking: 'told at once',
    waysAlone: [processingAlone, receiving],
    ways: [consuming, processing],
    open: async (directory) => openQueue(await MiniQueue.open(directory)),
  }
}

type Queue = Awaited<ReturnType<typeof MiniQueue.open>>

function openQueue(queue: Queue): OpenQueue {
  return {
    enqueue: (payload) => queue.enqueue(payload),
    async fill(payloads) {
      await queue.enqueueAll(payloads.map((payload) => ({ payload })))
    },
    async drain(messages, way) {
      if (way === processingAlone) return await processSome(queue, { messages, concurrency: 1 })
      for (let taken = 0; taken < messages; taken++) {
        const [message] = await queue.receive()
        await message?.ack()
      }
    },
    drainBy: (way, messages) =>
      way === consuming ? consumeSome(queue, messages) : processSome(queue, { messages, concurrency: width }),
    work(handler) {
      const stop = new AbortController()
      const run = queue.process(handler, { signal: stop.signal })
      return stoppable(run, () => stop.abort())
    },
    countLeft() {
      const { ready, delayed, inFlight, dead } = queue.stats()
      return ready + delayed + inFlight + dead
    },
    close: () => queue.close(),
  }
}

async function consumeSome(queue: Queue, messages: number): Promise<void> {
  let taken = 0
  for await (const message of queue.consume({ prefetch: width })) {
    await message.ack()
    if (++taken === messages) break
  }
}

async function processSome(
  queue: Queue,
  { messages, concurrency }: { readonly messages: number; readonly concurrency: number },
): Promise<void> {
  const stop = new AbortController()
  let taken = 0
  const handler = (): void => {
    if (++taken === messages) stop.abort()
  }
  // When process() resolves, every message that its handlers took is acknowledged.
  await queue.process(handler, { concurrency, signal: stop.signal })
}

function stoppable(run: Promise<void>, stop: () => void): Worker {
  return {
    async stop() {
      stop()
      await run
    },
  }
}
