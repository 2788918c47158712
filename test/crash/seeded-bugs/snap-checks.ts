import { MiniStoreError, SnapStore } from '../../../src/minisnap/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { CrashHarness } from '../harness.ts'
import { snapDirectory, SnapModel } from '../snap/model.ts'
import { SnapOracle } from '../snap/oracle.ts'
import { scriptedSnaps } from '../snap/workloads.ts'
import type { Check, CheckContext } from './checks.ts'

/** Each check has its own harness, since a journal's oracle cannot describe what snapshots hold. */
export const snapChecks: readonly Check[] = [
  ...[1, 2].flatMap((keep) => scriptedSnaps(keep, 1)).map((script): Check => [
    `snapshots: ${script.name}`,
    ({ newFiles }) =>
      new CrashHarness(new SnapOracle()).run(script, { seed: 1, limit: 16, insideEvery: 40 }, newFiles()),
  ]),
  ['snapshots: one sync fails', syncsThatFail],
  [
    'snapshots: every flipped bit is found',
    async (context) => {
      const { files, store } = await twoSnapshots(context)
      const whole = files.readFile(pathOf(2))
      for (let bit = 0; bit < 8 * whole.length; bit++) {
        const bytes = Buffer.from(whole)
        bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
        files.writeFile(pathOf(2), bytes)
        const found = await store.restore()
        if (found?.sequence !== 1) throw new Error(`bit ${bit} is not found: ${JSON.stringify(found)}`)
      }
    },
  ],
  [
    'snapshots: one under the name of another is damaged',
    async (context) => {
      const { files, store } = await twoSnapshots(context)
      files.writeFile(pathOf(3), files.readFile(pathOf(1)))
      const found = await store.restore()
      if (found?.sequence !== 2) throw new Error(`the state of 1 is given as that of ${found?.sequence}`)
    },
  ],
  [
    'snapshots: where all are damaged there is an error',
    async (context) => {
      const { files, store } = await twoSnapshots(context)
      for (const sequence of [1, 2]) files.writeFile(pathOf(sequence), 'damaged')
      const found = await store.restore().catch((error: unknown) => error)
      if (!(found instanceof MiniStoreError)) throw new Error(`damage passes for ${JSON.stringify(found)}`)
    },
  ],
]

const pathOf = (sequence: number): string => `${snapDirectory}/snapshot-${sequence}.json`

async function twoSnapshots({ newFiles }: CheckContext): Promise<{
  readonly files: SimulatedFileSystem
  readonly store: SnapStore
}> {
  const files = newFiles()
  const store = new SnapStore(snapDirectory, { fileSystem: files })
  for (const sequence of [1, 2]) await store.create({ sequence }, sequence)
  return { files, store }
}

/** One run for every sync that can fail, crashed from there on. */
async function syncsThatFail({ newFiles }: CheckContext): Promise<void> {
  const harness = new CrashHarness(new SnapOracle())
  for (let nth = 1; ; nth++) {
    const files = newFiles()
    const model = new SnapModel()
    const fault = files.failOn({ operation: ['sync', 'syncDirectory'], nth }, 'EIO')
    const run = async (): Promise<void> => {
      const store = model.open(files, 1)
      for (const sequence of [1, 2, 3]) await model.create(store, { sequence }, sequence).catch(orRefusal)
    }
    const workload = { name: `sync ${nth} fails`, expected: model.expected, run }
    await harness.run(workload, { seed: nth, limit: 6, epoch: () => fault.hits }, files)
    if (fault.hits === 0) return
  }
}

function orRefusal(error: unknown): void {
  if (!(error instanceof MiniStoreError)) throw error
}
