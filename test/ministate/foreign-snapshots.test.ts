import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager, StateView } from '../../src/ministate/index.ts'
import { ministore } from '../cli/run-command.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

interface Sum {
  total: number
}

const definition = {
  initialState: (): Sum => ({ total: 0 }),
  mutator: (state: Sum, { by }: { by: number }): void => {
    state.total += by
  },
}

/** A state of three mutations with a snapshot, in a directory of its own. */
async function stateOf(by: number): Promise<string> {
  const directory = join(await temporaryDirectory(), 'state')
  await using manager = await StateManager.open(directory, definition)
  for (let n = 1; n <= 3; n++) await manager.apply({ by })
  await manager.createSnapshot()
  return directory
}

/** The state of one journal beside the snapshot of another, as after half a restored backup. */
async function mixed(): Promise<string> {
  const [one, other] = [await stateOf(1), await stateOf(100)]
  await cp(join(other, 'snapshot-3.json'), join(one, 'snapshot-3.json'))
  return one
}

const foreign = {
  code: 'ERR_MINISTORE_FOREIGN_JOURNAL',
  message: expect.stringMatching(/^The snapshot at 3 belongs to the journal [0-9a-f]{16}, but the journal here is [0-9a-f]{16}\./) as string,
}

describe('a snapshot of another journal', () => {
  test('is refused by the manager and changes nothing', async () => {
    const directory = await mixed()
    const before = await readFile(join(directory, 'journal.jsonl'))
    await expect(StateManager.open(directory, definition)).rejects.toMatchObject({ ...foreign, path: join(directory, 'snapshot-3.json') })
    expect(await readFile(join(directory, 'journal.jsonl'))).toEqual(before)
    await rm(join(directory, 'snapshot-3.json'))
    await using manager = await StateManager.open(directory, definition)
    expect(manager.state.total).toBe(3)
  })

  test('is refused by a read replica and by the command line', async () => {
    const directory = await mixed()
    await expect(StateView.open(directory, definition)).rejects.toMatchObject(foreign)
    const stats = await ministore(['stats', directory])
    expect([stats.code, stats.stdout]).toEqual([1, expect.stringContaining('belongs to the journal')])
    const compact = await ministore(['compact', join(directory, 'journal.jsonl'), '--before', '3', '--write'])
    expect([compact.code, compact.stderr]).toEqual([1, expect.stringContaining('belongs to the journal')])
  })

  test('is refused by a projection: its own snapshots are of the journal that was there before', async () => {
    const [journal, snapshots] = [join(await temporaryDirectory(), 'journal.jsonl'), await temporaryDirectory()]
    const options = { ...definition, snapshots: { directory: snapshots } }
    for (const expected of [3, 'refused'] as const) {
      await mkdir(dirname(journal), { recursive: true })
      const store = await MiniStore.open<{ by: number }>(journal)
      await store.appendAll([{ by: 1 }, { by: 1 }, { by: 1 }])
      await store.close()
      const opening = StateView.open(journal, options)
      if (expected === 'refused') await expect(opening).rejects.toMatchObject(foreign)
      else {
        const view = await opening
        expect(view.state.total).toBe(expected)
        await view.close()
      }
      await rm(dirname(journal), { recursive: true })
    }
  })

  test('is no base for a past state, though a newer snapshot fits', async () => {
    const [directory, other] = [await stateOf(1), await stateOf(100)]
    await using manager = await StateManager.open(directory, definition)
    await manager.apply({ by: 1 })
    await manager.apply({ by: 1 })
    await manager.createSnapshot()
    await cp(join(other, 'snapshot-3.json'), join(directory, 'snapshot-3.json'))
    await expect(manager.stateAt(4)).rejects.toMatchObject(foreign)
    expect([await manager.stateAt(2), await manager.stateAt(5)]).toEqual([{ total: 2 }, { total: 5 }])
  })

  test('is accepted if it names no journal', async () => {
    const directory = await stateOf(1)
    await new SnapStore<Sum>(directory).create({ total: 3 }, 3)
    await using manager = await StateManager.open(directory, definition)
    expect(manager.recovery).toMatchObject({ snapshotSequence: 3, replayed: 0 })
  })

  test('is accepted if the journal has no identity', async () => {
    const directory = await stateOf(1)
    const lines = (await readFile(join(directory, 'journal.jsonl'), 'utf8')).split('\n').slice(1)
    await rm(join(directory, 'journal.jsonl.seal'))
    await writeFile(join(directory, 'journal.jsonl'), ['// MINISTORE JOURNAL v0.2.0 seq=1', ...lines].join('\n'))
    await using view = await StateView.open(directory, definition)
    expect(view.state.total).toBe(3)
  })
})
