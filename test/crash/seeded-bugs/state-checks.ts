import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { CrashHarness } from '../harness.ts'
import { foldOf, type LogManager, openLog, stateDirectory, StateModel } from '../state/model.ts'
import { StateOracle } from '../state/oracle.ts'
import { scriptedStateWorkloads } from '../state/workloads.ts'
import type { Check, CheckContext } from './checks.ts'

/** Each check has its own harness, since a journal's oracle cannot describe what a state holds. */
export const stateChecks: readonly Check[] = [
  [
    'state: what is not durable does not show',
    async ({ newFiles }) => {
      const files = newFiles()
      const model = new StateModel()
      const manager = await model.open(files)
      const stop = files.onOperation(() => model.assertState(manager))
      await model.apply(files, manager)
      await model.applyAll(files, manager, 3)
      stop()
      for (const call of [() => model.apply(files, manager), () => model.applyAll(files, manager, 2)]) {
        files.failOn({ operation: 'write' }, 'ENOSPC')
        const [{ status }] = await Promise.allSettled([call()])
        if (status === 'fulfilled') throw new Error('a full disk passes unseen')
        model.assertState(manager)
      }
      await manager.close()
    },
  ],
  [
    'state: every kept snapshot can be fallen back to',
    async (context) => {
      const { files, manager } = await compactedTwice(context)
      await manager.close()
      damage(files, 4)
      await expectLog(files, 4)
    },
  ],
  [
    'state: an older snapshot is kept in the place of a damaged one',
    async (context) => {
      const { files, manager } = await compactedTwice(context)
      damage(files, 4)
      await manager.apply({ id: 5 })
      await manager.compact()
      await manager.close()
      damage(files, 5)
      await expectLog(files, 5)
    },
  ],
  ...scriptedStateWorkloads()
    .filter(({ name }, index) => index < 4 || name.includes('beside'))
    .map((script): Check => [
      `state: ${script.name}`,
      ({ newFiles }) => {
        let moments = 0
        // Opening a state and asking for its whole past takes a while, so every third moment is
        // tested.
        const isTaken = (): boolean => ++moments % 3 === 0
        const options = { seed: 1, limit: 3, nesting: 0, isTaken }
        return new CrashHarness(new StateOracle()).run(script, options, newFiles())
      },
    ]),
]

/** Snapshots of 2 and 4, and the journal from 3 on. */
async function compactedTwice({ newFiles }: CheckContext): Promise<{
  readonly files: SimulatedFileSystem
  readonly manager: LogManager
}> {
  const files = newFiles()
  const manager = await openLog(files)
  for (let id = 1; id <= 4; id++) {
    await manager.apply({ id })
    if (id % 2 === 0) await manager.compact()
  }
  return { files, manager }
}

function damage(files: SimulatedFileSystem, sequence: number): void {
  files.writeFile(`${stateDirectory}/snapshot-${sequence}.json`, 'damaged')
}

async function expectLog(files: SimulatedFileSystem, count: number): Promise<void> {
  const manager = await openLog(files)
  const [found, expected] = [manager.state.log.join(), foldOf([1, 2, 3, 4, 5], count).join()]
  await manager.close()
  if (found !== expected) throw new Error(`the state is ${found}, expected ${expected}`)
}
