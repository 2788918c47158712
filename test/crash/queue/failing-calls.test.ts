import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { type Fault, SimulatedFileSystem, type SystemErrorCode } from '../../../src/testing/index.ts'
import { turn } from '../../support/consume.ts'
import { scaled } from '../../support/crash-scale.ts'
import { QueueRun, TroubleCounts } from './run.ts'
import { codeOf, QueueUser } from './user.ts'
import { type QueueScript, queueScripts } from './workloads.ts'

// In the ordinary suite every ninth call fails, from a different first call for each script.
const step = scaled(9, 1)
const counts = { runs: 0, rejected: 0, poisoned: 0, unseen: 0 }

const cases = queueScripts().flatMap((script, index) =>
  (['EIO', 'ENOSPC'] as const).map((error) => ({
    name: script.name,
    script,
    error,
    first: 1 + (index % step),
  })),
)

describe('whichever disk call fails, no message is lost and none comes back', () => {
  test.each(cases)(
    '$name: $error',
    { timeout: scaled(60_000, 600_000) },
    async ({ script, error, first }) => {
      let nth = first
      for (; await runWithFault(script, { nth, error }); nth += step) counts.runs += 1
      expect(nth).toBeGreaterThan(first + step)
    },
  )
})

afterAll(() => {
  console.log(
    `queue, failing calls: ${counts.runs} runs, ${counts.rejected} calls rejected and survived, ` +
      `${counts.poisoned} queues reopened, ${counts.unseen} failures that no call saw`,
  )
})

test('the suite sees failures of every kind', () => {
  expect(counts.runs).toBeGreaterThan(scaled(200, 2000))
  for (const kind of ['rejected', 'poisoned', 'unseen'] as const)
    expect(counts[kind], kind).toBeGreaterThan(10)
})

/** Runs a script in which one call fails once. Returns whether there was such a call. */
async function runWithFault(
  { name, options, actions }: QueueScript,
  { nth, error }: { readonly nth: number; readonly error: SystemErrorCode },
): Promise<boolean> {
  const files = new SimulatedFileSystem()
  const user = new QueueUser()
  const fault = files.failOn({ nth }, error)
  const run = new QueueRun(files, user, new TroubleCounts())
  try {
    const place = { user, files, fault }
    await attempt(place, () => user.open(files, options))
    for (const action of actions) await attempt(place, () => run.act(action))
    await attempt(place, () => user.close())
    files.clearFaults()
    // Checks what the next process finds.
    if (user.isOpen) await user.close()
    await user.open(files)
    await user.close()
  } catch (thrown) {
    throw new Error(`${name}, call ${nth} fails with ${error}: ${String(thrown)}`, { cause: thrown })
  }
  return fault.hits > 0
}

interface Place {
  readonly user: QueueUser
  readonly files: SimulatedFileSystem
  readonly fault: Fault
}

/**
 * Makes a call that may fail, and continues as its caller would: with the same queue if it is still
 * usable, or with a new one.
 */
async function attempt({ user, files, fault }: Place, call: () => Promise<void>): Promise<void> {
  const before = user.isOpen ? user.queue : undefined
  const { hits } = fault
  let failure: Error | undefined
  try {
    await call()
  } catch (error) {
    failure = error as Error
  }
  await turn()
  const hasHit = fault.hits > hits
  if (hasHit) user.hasDiskFailed = true
  const isTold = user.errors.length > 0
  user.errors.length = 0
  if (failure === undefined && !isTold) return user.isOpen ? user.checkStats() : undefined
  if (!hasHit) throw failure ?? new Error('An error was told, and nothing has failed')
  const code = codeOf(failure)
  if (failure === undefined) counts.unseen += 1
  else if (code === 'ERR_MINISTORE_IO' && user.isOpen && user.queue === before) {
    counts.rejected += 1
    return user.checkStats()
  }
  counts.poisoned += 1
  // The failed call itself may have opened the queue and found it unusable.
  for (const queue of [before, user.isOpen ? user.queue : undefined]) await queue?.close().catch(() => {})
  user.leave()
  await user.open(files)
}
