import { once } from 'node:events'
import { rm } from 'node:fs/promises'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, test } from 'vitest'

import { type SnapshotOptions, StateManager, type StateOptions } from '../../src/ministate/index.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

test('a deleted snapshot is created again before any record is dropped for it', async () => {
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

test('an error thrown by an asynchronous onError is a warning and does not end the process', async () => {
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

describe('an open that fails frees the lock and closes its files', () => {
  const whole = {
    initialState: (): number[] => [],
    mutator: (state: number[], mutation: number): void => void state.push(mutation),
  }
  const refuse = (): never => {
    throw new Error('not today')
  }
  const schemaOf = (validate: () => never): StandardSchemaV1<never> => ({ '~standard': { version: 1, vendor: 'test', validate } })

  test.each<[string, Partial<StateOptions<number[], number>>, object]>([
    ['the initial state', { initialState: refuse }, { message: 'not today' }],
    ['an initial state that is a promise', { initialState: () => Promise.resolve([]) as never }, { name: 'TypeError' }],
    ['the mutator', { mutator: refuse }, { code: 'ERR_MINISTORE_MUTATOR' }],
    ['a schema', { schema: schemaOf(refuse) }, { code: 'ERR_MINISTORE_SCHEMA' }],
    ['a codec', { journal: { codec: { encode: String, decode: refuse } } }, { code: 'ERR_MINISTORE_CODEC' }],
  ])('because of %s', async (_, options, error) => {
    const [directory, fileSystem] = [await temporaryDirectory(), new ObservedFileSystem()]
    const first = await StateManager.open(directory, { ...whole, fileSystem })
    await first.apply(1)
    await first.close()
    await expect(StateManager.open(directory, { ...whole, ...options, fileSystem })).rejects.toMatchObject(error)
    expect(fileSystem.openFiles).toBe(0)
    await using again = await StateManager.open(directory, { ...whole, fileSystem })
    expect(again.state).toEqual([1])
  })

  test.each<[string, SnapshotOptions<number[]>, string]>([
    ['schema', { schema: schemaOf(refuse) }, 'ERR_MINISTORE_SCHEMA'],
    ['codec', { codec: { encode: String, decode: refuse } }, 'ERR_MINISTORE_CODEC'],
  ])('because of a %s of its snapshots', async (_, snapshots, code) => {
    const [directory, fileSystem] = [await temporaryDirectory(), new ObservedFileSystem()]
    const first = await StateManager.open(directory, { ...whole, fileSystem })
    await first.apply(1)
    await first.compact()
    await first.close()
    await expect(StateManager.open(directory, { ...whole, snapshots, fileSystem })).rejects.toMatchObject({ code })
    expect(fileSystem.openFiles).toBe(0)
    await using again = await StateManager.open(directory, { ...whole, fileSystem })
    expect(again.state).toEqual([1])
  })
})
