import { produce } from 'immer'
import { describe, expect, test, vi } from 'vitest'
import * as z from 'zod'

import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { deferred } from '../support/deferred.ts'
import { MemoryJournal, MemoryLog, MemorySnapshots } from '../support/memory-log.ts'
import { addOnes, changesOf, errorOf, journalFile, openSums, stateOn, type SumOptions } from './support.ts'

const adds = (...numbers: number[]): Array<{ by: number }> => numbers.map((by) => ({ by }))

describe('applyAll', () => {
  test('gives the range of the numbers, and applies in order', async () => {
    const { files, manager } = await openSums()
    await manager.apply({ by: 1 })
    expect(await manager.applyAll(adds(2, 3, 4))).toEqual({ first: 2, last: 4 })
    expect(manager.state.sums).toEqual([1, 3, 6, 10])
    expect(manager.sequence).toBe(4)
    expect(await stateOn(files.afterCrash({ keep: 'none' }))).toEqual([1, 3, 6, 10])
    await manager.close()
  })

  test('takes one write and one fsync', async () => {
    const { files, manager } = await openSums()
    const changes = changesOf(files)
    await manager.applyAll(adds(1, 1, 1))
    expect(changes.filter((change) => !change.startsWith('close'))).toEqual([`write ${journalFile}`, `dataSync ${journalFile}`])
    await manager.close()
  })

  test('runs between the calls around it', async () => {
    const { manager } = await openSums()
    const calls = [manager.apply({ by: 1 }), manager.applyAll(adds(10, 10)), manager.apply({ by: 2 }), manager.applyAll(adds(20))]
    expect(await Promise.all(calls)).toEqual([1, { first: 2, last: 3 }, 4, { first: 5, last: 5 }])
    expect(manager.state.sums).toEqual([1, 11, 21, 23, 43])
    await manager.close()
  })

  test('of no mutations writes nothing, and gives an empty range', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 2)
    const changes = changesOf(files)
    expect(await manager.applyAll([])).toEqual({ first: 3, last: 2 })
    expect(await errorOf(manager.applyAll([], { expectedSequence: 1 }))).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_CONFLICT' })
    expect(changes).toEqual([])
    await manager.close()
  })

  test('takes any iterable, and the mutations as they are at the call', async () => {
    const gate = deferred()
    const { files, manager } = await openSums({ validate: () => gate.promise })
    const mutations = new Set(adds(1, 2))
    const applied = manager.applyAll(mutations)
    for (const mutation of mutations) mutation.by = 100
    gate.resolve()
    await applied
    expect(manager.state.sums).toEqual([1, 3])
    expect(await stateOn(files)).toEqual([1, 3])
    await manager.close()
  })

  test('shows nothing before it is durable, and never a part', async () => {
    const { files, manager } = await openSums()
    const seen = new Set<number>()
    files.onOperation(() => seen.add(manager.state.sums.length + manager.sequence))
    await manager.applyAll(adds(1, 1, 1))
    expect([...seen]).toEqual([0])
    expect(manager.state.sums).toEqual([1, 2, 3])
    await manager.close()
  })

  test.each<[string, () => Promise<unknown>, object]>([
    ['is not iterable', async () => (await openSums()).manager.applyAll(5 as never), { name: 'TypeError' }],
    ['holds what has no JSON form', async () => (await openSums()).manager.applyAll([{ by: 1 }, { by: 1n as never }]), { code: 'ERR_MINISTORE_NOT_SERIALIZABLE' }],
    ['has an unknown option', async () => (await openSums()).manager.applyAll([], { expected: 1 } as never), { name: 'TypeError' }],
  ])('refuses what %s', async (_, call, error) => {
    await expect(call()).rejects.toMatchObject(error)
  })

  test('makes the snapshot that is due once', async () => {
    const { files, manager } = await openSums({ snapshots: { everyMutations: 2 } })
    await manager.applyAll(adds(1, 1, 1, 1, 1))
    expect(files.names('/state').filter((name) => name.startsWith('snapshot'))).toEqual(['snapshot-5.json'])
    await manager.close()
  })

  test('expects a sequence number when its turn comes, before it validates', async () => {
    const validate = vi.fn()
    const { manager } = await openSums({ validate })
    const calls = [manager.apply({ by: 1 }), manager.applyAll(adds(1, 1), { expectedSequence: 1 }), manager.applyAll(adds(9, 9), { expectedSequence: 1 })]
    const outcomes = await Promise.allSettled(calls)
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
    expect(outcomes[2]).toMatchObject({ reason: { code: 'ERR_MINISTORE_SEQUENCE_CONFLICT', expectedSequence: 1, sequence: 3 } })
    expect(validate).toHaveBeenCalledTimes(3)
    await manager.close()
  })
})

describe('validate in applyAll', () => {
  const refusal = new RangeError('too much')
  const atMost3: NonNullable<SumOptions['validate']> = ({ sums }, { by }) => {
    if ((sums.at(-1) ?? 0) + by > 3) throw refusal
  }
  const mutators: ReadonlyArray<[string, NonNullable<SumOptions['mutator']>]> = [
    ['changes the state', ({ sums }, { by }) => void sums.push((sums.at(-1) ?? 0) + by)],
    ['returns a new state', ({ sums }, { by }) => ({ sums: [...sums, (sums.at(-1) ?? 0) + by] })],
    ['is an Immer producer', produce(({ sums }: { sums: number[] }, { by }: { by: number }) => void sums.push((sums.at(-1) ?? 0) + by))],
  ]

  test.each(mutators)('sees the state that the ones before would make; the mutator %s', async (_how, mutator) => {
    const { files, manager } = await openSums({ mutator, validate: atMost3 })
    await manager.apply({ by: 1 })
    const [bytes, before] = [files.readFile(journalFile), manager.state]
    await expect(manager.applyAll(adds(1, 1, 1))).rejects.toBe(refusal)
    expect(manager.state).toBe(before)
    expect(manager.state.sums).toEqual([1])
    expect(manager.sequence).toBe(1)
    expect(files.readFile(journalFile)).toEqual(bytes)
    expect(await manager.applyAll(adds(1, 1))).toEqual({ first: 2, last: 3 })
    expect(manager.state.sums).toEqual([1, 2, 3])
    expect(await stateOn(files, { mutator })).toEqual([1, 2, 3])
    await manager.close()
  })

  test('that refuses one mutation applies none, though later ones would pass', async () => {
    const { manager } = await openSums({ validate: atMost3 })
    await expect(manager.applyAll(adds(1, 9, 1))).rejects.toBe(refusal)
    expect(manager.state.sums).toEqual([])
    await manager.close()
  })

  test('may be asynchronous, and sees each sequence of states once', async () => {
    const seen: number[][] = []
    const { manager } = await openSums({
      validate: async ({ sums }) => {
        await Promise.resolve()
        seen.push([...sums])
      },
    })
    await Promise.all([manager.applyAll(adds(1, 2)), manager.applyAll(adds(3, 4))])
    expect(seen).toEqual([[], [1], [1, 3], [1, 3, 6]])
    await manager.close()
  })

  test('keeps the state object for a mutator that changes it, and copies nothing for one mutation', async () => {
    const mutate = vi.fn()
    const { manager } = await openSums({ validate: () => {}, mutator: ({ sums }, { by }) => { mutate(); sums.push(by) } })
    const { state } = manager
    await manager.applyAll(adds(1))
    expect(mutate).toHaveBeenCalledTimes(1)
    await manager.applyAll(adds(2, 3))
    expect(mutate).toHaveBeenCalledTimes(5)
    expect(manager.state).toBe(state)
    expect(state.sums).toEqual([1, 2, 3])
    await manager.close()
  })

  test('without it nothing is copied and every mutation is applied once', async () => {
    const mutate = vi.fn()
    const state = { sums: [] as number[], run: () => 'not to be copied' }
    const { manager } = await openSums({ initialState: () => state, mutator: ({ sums }, { by }) => { mutate(); sums.push(by) } })
    await manager.applyAll(adds(1, 2, 3))
    expect(mutate).toHaveBeenCalledTimes(3)
    await manager.close()
  })

  test('a mutation that the mutator puts into the state and changes there is stored as it was given', async () => {
    interface Item { id: string; count: number }
    const files = new SimulatedFileSystem()
    const open = (): Promise<StateManager<Record<string, Item>, Item>> =>
      StateManager.open('/items', {
        initialState: (): Record<string, Item> => ({}),
        mutator: (items, item: Item) => {
          const known = items[item.id]
          if (known === undefined) items[item.id] = item
          else known.count += item.count
        },
        validate: () => {},
        fileSystem: files,
      })
    const manager = await open()
    await manager.applyAll([1, 2, 3].map((count) => ({ id: 'a', count })))
    expect(manager.state).toEqual({ a: { id: 'a', count: 6 } })
    await manager.close()
    const again = await open()
    expect(again.state).toEqual({ a: { id: 'a', count: 6 } })
    await again.close()
  })

  test('gets instances of classes where the snapshots have a codec', async () => {
    class Total {
      value = 0
      add(by: number): void {
        this.value += by
      }
      isOver(limit: number): boolean {
        return this.value > limit
      }
    }
    const manager = await StateManager.open('/total', {
      initialState: () => new Total(),
      mutator: (total, by: number) => total.add(by),
      validate: (total) => {
        if ((total as Total).isOver(3)) throw refusal
      },
      snapshots: {
        codec: { encode: ({ value }: Total) => JSON.stringify([value]), decode: (text) => Object.assign(new Total(), { value: (JSON.parse(text) as [number])[0] }) },
      },
      fileSystem: new SimulatedFileSystem(),
    })
    await manager.applyAll([1, 2, 3])
    expect((manager.state as Total).isOver(5)).toBe(true)
    await expect(manager.applyAll([1, 1])).rejects.toBe(refusal)
    await manager.close()
  })

  test('and the mutator get the output of a schema, asynchronous too', async () => {
    const files = new SimulatedFileSystem()
    const seen: unknown[] = []
    const manager = await StateManager.open('/s', {
      initialState: () => [] as Date[],
      schema: z.string().transform(async (text) => new Date(text)),
      mutator: (list, date) => void list.push(date),
      validate: (list, date) => void seen.push([list.length, date instanceof Date]),
      snapshots: { codec: { encode: (list: Date[]) => JSON.stringify(list), decode: (text) => (JSON.parse(text) as string[]).map((date) => new Date(date)) } },
      fileSystem: files,
    })
    await manager.applyAll(['2020-01-01', '2021-01-01'])
    expect(seen).toEqual([[0, true], [1, true]])
    expect(manager.state.map((date) => date.getUTCFullYear())).toEqual([2020, 2021])
    await expect(manager.applyAll(['2020-01-01', 5 as never])).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    expect(manager.sequence).toBe(2)
    await manager.close()
  })
})

describe('a failure in applyAll', () => {
  test('that is rolled back leaves the state unchanged and the manager usable', async () => {
    const { files, manager } = await openSums()
    files.failOn({ operation: 'write' }, 'ENOSPC', { bytesFirst: 12 })
    expect(await errorOf(manager.applyAll(adds(1, 2)))).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect([manager.state.sums, manager.sequence]).toEqual([[], 0])
    expect(await manager.applyAll(adds(4, 5))).toEqual({ first: 1, last: 2 })
    expect(await stateOn(files)).toEqual([4, 9])
    await manager.close()
  })

  test('of the fsync ends the manager; the state stays', async () => {
    const { files, manager } = await openSums()
    await manager.apply({ by: 1 })
    files.failOn({ operation: 'dataSync' }, 'EIO')
    expect(await errorOf(manager.applyAll(adds(2, 3)))).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(await errorOf(manager.applyAll(adds(2)))).toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    expect(manager.state.sums).toEqual([1])
    await manager.close()
  })

  test('of the mutator after the write ends the manager, as in apply', async () => {
    const { manager } = await openSums({
      mutator: ({ sums }, { by }) => {
        if (by === 3) throw new Error('no three')
        sums.push(by)
      },
    })
    await manager.apply({ by: 1 })
    expect(await errorOf(manager.applyAll(adds(2, 3, 4)))).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', sequence: 3 })
    expect(() => manager.state).toThrow('Only close() works')
    expect(manager.sequence).toBe(2)
    await manager.close()
  })

  test.each([[2, 3, 4], [3, 2], [2, 3]])('of the mutator on the copy, for %j: throws it unchanged, and the manager stays usable', async (...numbers) => {
    const refusal = new Error('no three')
    const { files, manager } = await openSums({
      validate: () => {},
      mutator: ({ sums }, { by }) => {
        if (by === 3) throw refusal
        sums.push(by)
      },
    })
    const bytes = files.readFile(journalFile)
    await expect(manager.applyAll(adds(...numbers))).rejects.toBe(refusal)
    expect(files.readFile(journalFile)).toEqual(bytes)
    expect(await manager.applyAll(adds(2, 4))).toEqual({ first: 1, last: 2 })
    expect(manager.state.sums).toEqual([2, 4])
    await manager.close()
  })

  test('of a mutator that returns a promise for the copy is a TypeError, and nothing is written', async () => {
    const { manager } = await openSums({ validate: () => {}, mutator: (async () => {}) as never })
    await expect(manager.applyAll(adds(1, 2))).rejects.toThrow(new TypeError('Expected the mutator to be synchronous, but it returned a promise'))
    expect(manager.sequence).toBe(0)
    await manager.close()
  })

  test('of the copy tells what to do, writes nothing, and the manager stays usable', async () => {
    const { manager } = await openSums({ validate: () => {}, initialState: () => ({ sums: [], run: () => {} }) })
    expect(await errorOf(manager.applyAll(adds(1, 2)))).toMatchObject({
      code: 'ERR_MINISTORE_NOT_SERIALIZABLE',
      message: expect.stringMatching(/^Expected a state that structuredClone can copy, .*Nothing is written\. .*call `apply`/) as string,
      cause: { name: 'DataCloneError' },
    })
    expect(await manager.apply({ by: 1 })).toBe(1)
    await manager.close()
  })

  test('of the codec that copies is a CODEC error', async () => {
    const codec = { encode: () => { throw new Error('no text') }, decode: () => ({ sums: [] }) }
    const { manager } = await openSums({ validate: () => {}, snapshots: { codec } })
    expect(await errorOf(manager.applyAll(adds(1, 2)))).toMatchObject({ code: 'ERR_MINISTORE_CODEC', cause: { message: 'no text' } })
    expect(manager.sequence).toBe(0)
    await manager.close()
  })

  test('is a TypeError over a journal without appendAll', async () => {
    const journal = Object.assign(new MemoryJournal<number>(new MemoryLog()), { appendAll: undefined })
    const manager = await StateManager.over(journal, new MemorySnapshots<number[]>(), {
      initialState: () => [] as number[],
      mutator: (list, n: number) => void list.push(n),
    })
    await expect(manager.applyAll([1, 2])).rejects.toThrow(/TypeError|Expected a journal with `appendAll`/)
    expect(await manager.apply(1)).toBe(1)
    await manager.close()
  })

  test('of a journal that gives other numbers ends the manager', async () => {
    const journal = new MemoryJournal<number>(new MemoryLog())
    const manager = await StateManager.over(journal, new MemorySnapshots<number[]>(), {
      initialState: () => [] as number[],
      mutator: (list, n: number) => void list.push(n),
    })
    vi.spyOn(journal, 'appendAll').mockResolvedValue({ first: 1, last: 1 })
    expect(await errorOf(manager.applyAll([1, 2]))).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(manager.state).toEqual([])
    await manager.close()
  })
})
