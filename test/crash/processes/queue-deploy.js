// A service that handles messages until SIGTERM, as the page of the queue shows. It reports when a
// handler begins and when it has finished. See ../queue/deploy.test.ts.
import { setTimeout as wait } from 'node:timers/promises'

import { MiniQueue } from '../../../dist/miniqueue/index.js'
import { fail, instructions, report } from './report.js'

const { directory, concurrency, drainMs, workMs } = await instructions()

try {
  const queue = await MiniQueue.open(directory, { maxAttempts: 3 })
  const stop = new AbortController()
  process.once('SIGTERM', () => stop.abort())
  report({ type: 'opened' })
  const idle = setInterval(() => {
    const { ready, delayed, inFlight } = queue.stats()
    if (ready + delayed + inFlight === 0) stop.abort()
  }, 5)
  const handle = async ({ name, isLong }, { attempt, signal }) => {
    report({ type: 'begin', name, attempt })
    // Real work that honours its signal, such as a fetch.
    await wait(isLong ? workMs.long : workMs.short, undefined, { signal })
    report({ type: 'finished', name })
  }
  await queue.process(handle, { concurrency, signal: stop.signal, drainMs })
  clearInterval(idle)
  await queue.close()
  report({ type: 'closed' })
} catch (error) {
  fail(error)
}
