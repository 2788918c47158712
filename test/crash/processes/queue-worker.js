// A queue worker that enqueues and processes messages until it is killed, by its parent or by a
// message. It reports each action before taking it, and each durable result as soon as it has it.
// See ../queue-kill.test.ts.
import { subscribe } from 'node:diagnostics_channel'

import { MiniQueue } from '../../../dist/miniqueue/index.js'
import { fail, instructions, report } from './report.js'

const { directory, options, concurrency, jobs, isInOrder } = await instructions()

/** Resolves after one turn of the event loop. */
const turn = () => new Promise((resolve) => setImmediate(resolve))

async function handle(job, { id, attempt }) {
  report({ type: 'begin', name: job.name, id, attempt })
  if (job.kind === 'deadly') process.kill(process.pid, 'SIGKILL')
  for (let turns = job.turns; turns > 0; turns--) await turn()
  if (job.kind === 'failing' && attempt < 3) throw new Error('not yet')
  report({ type: 'end', name: job.name })
}

/**
 * Deadly messages come last, since otherwise nothing else would be processed before they end dead.
 */
const optionsOf = ({ kind }) => ({ priority: kind === 'deadly' && !isInOrder ? -1 : 0 })

async function enqueue() {
  for (const group of jobs) {
    const names = group.map(({ name }) => name)
    report({ type: 'enqueue', names })
    const messages = group.map((payload) => ({ payload, ...optionsOf(payload) }))
    if (group.length > 1) await queue.enqueueAll(messages)
    else await queue.enqueue(group[0], optionsOf(group[0]))
    report({ type: 'enqueued', names })
  }
}

/** Resolves when no message is left to process. */
async function idle() {
  for (;;) {
    const { ready, delayed, inFlight } = queue.stats()
    if (ready + delayed + inFlight === 0) return
    await turn()
  }
}

let queue
try {
  queue = await MiniQueue.open(directory, { ...options, backoff: () => 0 })
  subscribe('miniqueue:ack', ({ ids }) => report({ type: 'acked', ids }))
  report({ type: 'opened' })
  const stop = new AbortController()
  const working = queue.process(handle, { concurrency, signal: stop.signal })
  await enqueue()
  await idle()
  stop.abort()
  await working
  await queue.close()
  report({ type: 'closed' })
} catch (error) {
  fail(error)
}
