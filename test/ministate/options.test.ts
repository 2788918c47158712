import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager, type StateOptions } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

const definition = { initialState: () => 0, mutator: (state: number, by: number) => state + by }

const wrong: ReadonlyArray<readonly [string, unknown, RegExp]> = [
  ['no options', undefined, /`initialState` to be a function, got `undefined`/],
  ['options that are not an object', 5, /options to be an object/],
  ['no mutator', { initialState: () => 0 }, /`mutator` to be a function/],
  ['an initial state in place of a function', { ...definition, initialState: {} }, /`initialState` to be a function, got an object/],
  ['an invalid validate', { ...definition, validate: true }, /`validate` to be a function/],
  ['an invalid capture', { ...definition, capture: true }, /`capture` to be a function/],
  ['a misspelt name', { ...definition, mutater: 1 }, /Unknown option `mutater`: did you mean `mutator`/],
  ['journal options that are not an object', { ...definition, journal: 5 }, /`journal` to be an object/],
  ['a misspelt journal option', { ...definition, journal: { maxBytesPerSegments: 1 } }, /did you mean `maxBytesPerSegment`/],
  ['a journal option out of its range', { ...definition, journal: { maxBytesPerSegment: 0 } }, /`maxBytesPerSegment`/],
  ['retention', { ...definition, journal: { maxSegments: 3 } }, /no option `maxSegments` of `journal`: it would delete/],
  ['an invalid codec', { ...definition, journal: { codec: {} } }, /`codec` to have encode and decode/],
  ['an invalid schema', { ...definition, schema: {} }, /`schema` to be a Standard Schema/],
  ['snapshot options that are not an object', { ...definition, snapshots: null }, /`snapshots` to be an object/],
  ['a misspelt snapshot option', { ...definition, snapshots: { everyMutation: 1 } }, /did you mean `everyMutations`/],
  ['no snapshots kept', { ...definition, snapshots: { keep: 0 } }, /`keep`/],
  ['snapshots every 0 mutations', { ...definition, snapshots: { everyMutations: 0 } }, /`everyMutations`.*1 or greater/],
  ['an invalid listener', { ...definition, snapshots: { onError: 'log' } }, /`onError` to be a function/],
  ['an invalid state codec', { ...definition, snapshots: { codec: {} } }, /`codec`/],
  ['an invalid file system', { ...definition, fileSystem: {} }, /`fileSystem` to be a FileSystem/],
]

describe('StateManager.open refuses', () => {
  test.each(wrong)('%s', async (_what, options, message) => {
    const error: unknown = await StateManager.open('/state', options as StateOptions<number, number>).catch(
      (thrown: unknown) => thrown,
    )
    expect(error instanceof TypeError || error instanceof RangeError, String(error)).toBe(true)
    expect((error as Error).message).toMatch(message)
  })

  test.each(['', 'a\0b', 5, undefined])('%j for a directory', async (directory) => {
    await expect(StateManager.open(directory as string, definition)).rejects.toThrow('`directory`')
  })

  test('misuse before anything is created', async () => {
    const fileSystem = new SimulatedFileSystem()
    await expect(StateManager.open('/state', { ...definition, fileSystem, snapshots: { keep: 0 } })).rejects.toThrow()
    expect(fileSystem.operations).toBe(0)
  })
})

test('StateManager.over refuses options that belong to the journal or the snapshot store', async () => {
  const fileSystem = new SimulatedFileSystem()
  const journal = await MiniStore.open<number>('/journal.jsonl', { fileSystem })
  const snapshots = new SnapStore<number>('/snapshots', { fileSystem })
  const over = (options: object): Promise<unknown> =>
    StateManager.over(journal, snapshots, { ...definition, ...options })
  await expect(over({ journal: {} })).rejects.toThrow('Unknown option `journal`')
  await expect(over({ fileSystem })).rejects.toThrow('Unknown option `fileSystem`')
  await expect(over({ snapshots: { keep: 1 } })).rejects.toThrow('Unknown option `keep`')
  await expect(over({ codec: 1 })).rejects.toThrow('`codec`')
  await expect(over({ schema: 1 })).rejects.toThrow('`schema`')
  await expect(over({ mutator: 1 })).rejects.toThrow('`mutator`')
  expect(await journal.append(1)).toBe(1)
  await journal.close()
})
