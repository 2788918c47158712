import { join } from 'node:path'

import { expect, onTestFinished, test } from 'vitest'

import { MiniQueue } from '../../../src/miniqueue/index.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { KillableProcess } from '../processes/kill-process.ts'

type Report =
  | { readonly type: 'opened' | 'closed' }
  | { readonly type: 'begin'; readonly name: number; readonly attempt: number }
  | { readonly type: 'finished'; readonly name: number }

/** One deploy: the service runs until SIGTERM, or until nothing is left. */
async function deploy(
  directory: string,
  { isStopped, longMs }: { readonly isStopped: boolean; readonly longMs: number },
): Promise<KillableProcess<Report>['reports']> {
  const service = new KillableProcess<Report>('queue-deploy.js')
  onTestFinished(() => service.kill())
  let begun = 0
  service.onReport = ({ type }) => {
    if (type === 'begin' && ++begun === 4 && isStopped) service.signal('SIGTERM')
  }
  await service.start({ directory, concurrency: 3, drainMs: 300, workMs: { short: 10, long: longMs } })
  await service.ended()
  return service.reports
}

test('three deploys in a row bury no message and repeat none that had finished', { timeout: 60_000 }, async () => {
  const directory = join(await temporaryDirectory(), 'jobs')
  const names = Array.from({ length: 12 }, (_, name) => name)
  {
    await using queue = await MiniQueue.open<{ name: number; isLong: boolean }>(directory)
    // The long ones come first, so they are in flight during every deploy.
    await queue.enqueueAll(names.map((name) => ({ payload: { name, isLong: name < 2 } })))
  }
  const finished: number[] = []
  const attempts: number[] = []
  for (let round = 1; round <= 4; round++) {
    const isLast = round === 4
    const reports = await deploy(directory, { isStopped: !isLast, longMs: isLast ? 10 : 60_000 })
    expect(reports.at(-1), JSON.stringify(reports)).toEqual({ type: 'closed' })
    for (const report of reports) {
      if (report.type === 'finished') finished.push(report.name)
      if (report.type === 'begin' && report.name < 2) attempts.push(report.attempt)
    }
    await using queue = await MiniQueue.open(directory, { maxAttempts: 3 })
    expect(queue.stats()).toMatchObject({ ready: names.length - new Set(finished).size, delayed: 0, dead: 0 })
  }
  expect(finished.toSorted((left, right) => left - right)).toEqual(names)
  // Each deploy ended both of them, and none of these ends used up an attempt.
  expect(attempts).toEqual(Array(8).fill(1))
})
