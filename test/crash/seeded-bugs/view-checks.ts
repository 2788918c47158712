import { StateView } from '../../../src/ministate/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { elsewhere } from '../../support/elsewhere.ts'
import { CrashHarness } from '../harness.ts'
import { openLog, stateDirectory } from '../state/model.ts'
import { journalPath, openLogView, openWriter, ViewOracle, viewWorkloads } from '../state/view-model.ts'
import type { Check } from './checks.ts'

export const viewChecks: readonly Check[] = [
  [
    'view: a snapshot holds only durable records',
    async ({ newFiles }) => {
      const files = newFiles()
      const store = await openWriter(files)
      await store.append({ id: 100 })
      await store.close()
      const line = Buffer.from('{"id":101}\n')
      const journal = await files.open(journalPath, 'write')
      await journal.write(line, (await journal.stat()).size)
      await journal.close()
      const view = await openLogView(elsewhere(files))
      await view.close()
      const again = await openLogView(files.afterCrash({ keep: 'none' }))
      await again.close()
    },
  ],
  [
    'view: a replica changes nothing',
    async ({ newFiles }) => {
      const files = newFiles()
      const manager = await openLog(files)
      await manager.apply({ id: 1 })
      await manager.compact()
      files.writeFile(`${stateDirectory}/snapshot-2.json.tmp`, 'half')
      const changes: string[] = []
      const stop = files.onOperation(({ operation, path }) => {
        if (['create', 'rename', 'unlink', 'write', 'truncate'].includes(operation)) changes.push(`${operation} ${path}`)
      })
      const replica = await StateView.open(stateDirectory, {
        fileSystem: files, initialState: () => ({ log: [], text: '' }), mutator: () => {},
      })
      await replica.close()
      stop()
      await manager.close()
      if (changes.length > 0) throw new Error(changes.join())
    },
  ],
  [
    'view: its snapshots are its own after a crash',
    async ({ newFiles }) => {
      const files = newFiles()
      const store = await openWriter(files)
      for (const id of [100, 101]) await store.append({ id })
      const torn: SimulatedFileSystem[] = []
      files.onOperation(({ operation, path }) => {
        const isNamed = operation === 'syncDirectory' && files.names(path).includes('snapshot-2.json')
        if (isNamed) torn.push(...files.crashStates({ seed: 1, limit: 50 }))
      })
      await (await openLogView(elsewhere(files))).close()
      if (torn.length < 3) throw new Error(`only ${torn.length} states`)
      for (const state of torn) await (await openLogView(elsewhere(state))).close()
    },
  ],
  ...viewWorkloads(false).map((script): Check => [
    `view: ${script.name}`,
    ({ newFiles }) => {
      let moments = 0
      const isTaken = (): boolean => ++moments % 5 === 0
      return new CrashHarness(new ViewOracle()).run(script, { seed: 1, limit: 3, nesting: 0, isTaken }, newFiles())
    },
  ]),
]
