import { once } from 'node:events'
import { rm } from 'node:fs/promises'

import { expect, test } from 'vitest'

import { StateManager } from '../../src/ministate/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

test('a snapshot that somebody has deleted is made again before anything is dropped for it', async () => {
  const directory = await temporaryDirectory()
  const open = (): Promise<StateManager<number[], number>> =>
    StateManager.open(directory, {
      initialState: (): number[] => [],
      mutator: (state, mutation: number) => void state.push(mutation),
    })
  const manager = await open()
  for (const mutation of [1, 2, 3]) await manager.apply(mutation)
  await rm((await manager.createSnapshot()).path)
  const { snapshots, firstSequence } = await manager.compact()
  expect(snapshots.map(({ sequence }) => sequence)).toEqual([3])
  expect(firstSequence).toBe(4)
  await rm((await manager.createSnapshot()).path)
  await manager.createSnapshot()
  await manager.close()
  await using reopened = await open()
  expect(reopened.state).toEqual([1, 2, 3])
})

test('what an asynchronous onError throws is a warning, not the end of the process', async () => {
  const directory = await temporaryDirectory()
  const warned = once(process, 'warning')
  const onError: unknown = () => Promise.reject(new Error('the listener failed'))
  await using manager = await StateManager.open(directory, {
    initialState: () => ({ at: new Date(0) }),
    mutator: (): void => {},
    snapshots: {
      everyMutations: 1,
      onError: onError as () => void,
    },
  })
  expect(await manager.apply(1)).toBe(1)
  const [warning] = (await warned) as [Error]
  expect(warning.message).toBe('the listener failed')
})
