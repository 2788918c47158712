import { produce } from 'immer'
import { describe, expect, test, vi } from 'vitest'
import * as z from 'zod'

import { MiniStore, type MiniStoreError } from '../../src/index.ts'
import { type Mutator, StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { deferred } from '../support/deferred.ts'
import { type Add, addOnes, directory, errorOf, journalFile, openSums, stateOn, type Sums } from './support.ts'

describe('apply', () => {
  test('returns the sequence numbers 1, 2, 3 and changes the state', async () => {
    const { manager } = await openSums()
    expect(manager.sequence).toBe(0)
    expect(manager.state).toEqual({ sums: [] })
    expect(await manager.apply({ by: 10 })).toBe(1)
    expect(await manager.apply({ by: -4 })).toBe(2)
    expect(manager.state).toEqual({ sums: [10, 6] })
    expect(manager.sequence).toBe(2)
    await manager.close()
  })

  test('processes overlapping calls in call order, one at a time', async () => {
    const active = { now: 0, most: 0 }
    const { manager } = await openSums({
      validate: async () => {
        active.most = Math.max(active.most, ++active.now)
        await Promise.resolve()
        active.now -= 1
      },
    })
    const sequences = await Promise.all([1, 2, 3, 4, 5].map((by) => manager.apply({ by })))
    expect(sequences).toEqual([1, 2, 3, 4, 5])
    expect(manager.state.sums).toEqual([1, 3, 6, 10, 15])
    expect(active.most).toBe(1)
    await manager.close()
  })

  test('shows a mutation only once it is durable', async () => {
    const { files, manager } = await openSums()
    const seen: Array<readonly number[]> = []
    files.onOperation(() => seen.push([...manager.state.sums]))
    await manager.apply({ by: 1 })
    expect(seen.length).toBeGreaterThan(1)
    expect(seen.every((sums) => sums.length === 0)).toBe(true)
    expect(await stateOn(files.afterCrash({ keep: 'none' }))).toEqual([1])
    await manager.close()
  })

  test('validates, then appends, then mutates', async () => {
    const order: string[] = []
    const { files, manager } = await openSums({
      validate: () => void order.push('validate'),
      mutator: () => void order.push('mutate'),
    })
    files.onOperation(({ operation }) => order.push(operation))
    await manager.apply({ by: 1 })
    expect(order).toEqual(['validate', 'write', 'dataSync', 'mutate'])
    await manager.close()
  })

  test('captures the mutation at the call: later changes of the object have no effect', async () => {
    const gate = deferred()
    const { files, manager } = await openSums({ validate: () => gate.promise })
    const mutation = { by: 1 }
    const applied = manager.apply(mutation)
    mutation.by = 100
    gate.resolve()
    await applied
    expect(manager.state.sums).toEqual([1])
    expect(await stateOn(files)).toEqual([1])
    await manager.close()
  })

  test('passes the mutation to the mutator as replay will, after a round trip through JSON', async () => {
    const files = new SimulatedFileSystem()
    const open = (): Promise<StateManager<{ kept: unknown[] }, { at: unknown; gone?: undefined }>> =>
      StateManager.open(directory, {
        initialState: () => ({ kept: [] as unknown[] }),
        mutator: (state, mutation: { at: unknown; gone?: undefined }) => void state.kept.push(mutation),
        fileSystem: files,
      })
    const manager = await open()
    await manager.apply({ at: new Date(0), gone: undefined })
    await manager.apply({ at: [Number.NaN, -0, undefined] })
    const live = manager.snapshot()
    expect(live.kept).toStrictEqual([{ at: '1970-01-01T00:00:00.000Z' }, { at: [null, 0, null] }])
    await manager.close()
    const again = await open()
    expect(again.snapshot()).toStrictEqual(live)
    await again.close()
  })

  test('refuses a mutation without a JSON form; nothing is written and no number is used', async () => {
    const { files, manager } = await openSums()
    const before = files.readFile(journalFile)
    const error = await errorOf(manager.apply({ by: 1n } as never))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE', path: journalFile })
    expect(files.readFile(journalFile)).toEqual(before)
    expect(await manager.apply({ by: 1 })).toBe(1)
    await manager.close()
  })

  test('refuses a mutation that is too large', async () => {
    const { manager } = await openSums({ journal: { maxRecordBytes: 10 } })
    expect(await errorOf(manager.apply({ by: 10 ** 9 }))).toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
    expect(await manager.apply({ by: 1 })).toBe(1)
    await manager.close()
  })
})

describe('validate', () => {
  const refusal = new RangeError('too much')

  test.each([
    ['throws', () => { throw refusal }],
    ['rejects', () => Promise.reject(refusal)],
  ])('that %s refuses the mutation with that error; nothing is written', async (_how, validate) => {
    const { files, manager } = await openSums({ validate })
    const before = files.readFile(journalFile)
    await expect(manager.apply({ by: 1 })).rejects.toBe(refusal)
    expect(files.readFile(journalFile)).toEqual(before)
    expect(manager.state.sums).toEqual([])
    expect(manager.sequence).toBe(0)
    await manager.close()
  })

  test('sees the state after all earlier mutations', async () => {
    const { manager } = await openSums({
      validate: ({ sums }, { by }) => {
        if ((sums.at(-1) ?? 0) + by > 3) throw refusal
      },
    })
    const results = await Promise.allSettled([2, 2, 1, 1].map((by) => manager.apply({ by })))
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected'])
    expect(manager.state.sums).toEqual([2, 3])
    await manager.close()
  })

  test('is not called when a state is rebuilt', async () => {
    const { files, manager } = await openSums()
    await manager.apply({ by: 1 })
    await manager.close()
    const validate = vi.fn()
    const again = await openSums({ files, validate })
    expect(again.manager.state.sums).toEqual([1])
    expect(validate).not.toHaveBeenCalled()
    await again.manager.close()
  })
})

describe('expectedSequence', () => {
  test('that matches accepts the mutation, 0 for the first', async () => {
    const { manager } = await openSums()
    expect(await manager.apply({ by: 1 }, { expectedSequence: 0 })).toBe(1)
    expect(await manager.apply({ by: 1 }, { expectedSequence: 1 })).toBe(2)
    expect(await manager.apply({ by: 1 }, { expectedSequence: undefined })).toBe(3)
    await manager.close()
  })

  test('that does not match is refused with both numbers, and writes nothing', async () => {
    const validate = vi.fn()
    const { files, manager } = await openSums({ validate })
    await addOnes(manager, 2)
    validate.mockClear()
    const before = files.readFile(journalFile)
    const error = await errorOf(manager.apply({ by: 1 }, { expectedSequence: 1 }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_CONFLICT', sequence: 2 })
    expect(error.message).toMatch(/\b1\b.*\b2\b/)
    expect(validate).not.toHaveBeenCalled()
    expect(files.readFile(journalFile)).toEqual(before)
    expect(manager.state.sums).toEqual([1, 2])
    await manager.close()
  })

  test('of several overlapping calls lets one win', async () => {
    const { manager } = await openSums()
    const applies = [1, 2, 3].map((by) => manager.apply({ by }, { expectedSequence: 0 }))
    const results = await Promise.allSettled(applies)
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    expect(manager.state.sums).toEqual([1])
    await manager.close()
  })

  test.each([-1, 1.5, '1', null, Number.NaN])('of %s is misuse', async (expectedSequence) => {
    const { manager } = await openSums()
    await expect(manager.apply({ by: 1 }, { expectedSequence } as never)).rejects.toThrow('`expectedSequence`')
    await expect(manager.apply({ by: 1 }, { expectedSequnce: 1 } as never)).rejects.toThrow('did you mean')
    await manager.close()
  })
})

describe('a failed append', () => {
  test('that is rolled back leaves the state unchanged and the manager usable', async () => {
    const { files, manager } = await openSums()
    await manager.apply({ by: 1 })
    files.failOn({ operation: 'write' }, 'ENOSPC', { bytesFirst: 3 })
    expect(await errorOf(manager.apply({ by: 2 }))).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(manager.state.sums).toEqual([1])
    expect(await manager.apply({ by: 4 })).toBe(2)
    expect(manager.state.sums).toEqual([1, 5])
    expect(await stateOn(files)).toEqual([1, 5])
    await manager.close()
  })

  test('whose outcome is unknown ends the manager; the state stays at the last acknowledged mutation', async () => {
    const { files, manager } = await openSums()
    await manager.apply({ by: 1 })
    files.failOn({ operation: 'dataSync' }, 'EIO')
    const [failed, queued] = await Promise.all([2, 3].map((by) => errorOf(manager.apply({ by }))))
    expect(failed?.code).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    expect(queued).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause: failed })
    for (const call of [manager.apply({ by: 1 }), manager.createSnapshot(), manager.compact(), manager.stateAt(1)]) {
      expect(await errorOf(call)).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause: failed })
    }
    expect(() => manager.changes()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_POISONED' }))
    expect(manager.state.sums).toEqual([1])
    expect(manager.snapshot()).toEqual({ sums: [1] })
    await manager.close()
  })
})

describe('a mutator', () => {
  test('may change the state in place or return a new one', async () => {
    const files = new SimulatedFileSystem()
    const manager = await StateManager.open('/n', {
      initialState: () => 1,
      mutator: (state, by: number) => state * by,
      fileSystem: files,
    })
    await manager.apply(6)
    await manager.apply(7)
    expect(manager.state).toBe(42)
    await manager.createSnapshot()
    await manager.apply(0.5)
    await manager.close()
    const { manager: sums } = await openSums({ mutator: ({ sums: old }, { by }) => ({ sums: [...old, by] }) })
    await addOnes(sums, 2)
    expect(sums.state.sums).toEqual([1, 1])
    await sums.close()
  })

  test('may be an Immer producer with frozen states', async () => {
    const files = new SimulatedFileSystem()
    const mutator = produce((draft: { sums: number[] }, { by }: { by: number }) => {
      draft.sums.push(by)
    })
    const { manager } = await openSums({ files, mutator, snapshots: { keep: 1 } })
    const empty = manager.state
    await addOnes(manager, 2)
    expect(empty).toEqual({ sums: [] })
    expect(Object.isFrozen(manager.state.sums)).toBe(true)
    await manager.compact()
    await addOnes(manager, 1)
    const live = manager.snapshot()
    await manager.close()
    const again = await openSums({
      files,
      mutator: (state, { by }) => produce(state, (draft) => void draft.sums.push(by)),
    })
    expect(again.manager.snapshot()).toEqual(live)
    expect(again.manager.recovery.replayed).toBe(1)
    await addOnes(again.manager, 1)
    expect(again.manager.state.sums).toEqual([1, 1, 1, 1])
    await again.manager.close()
  })

  test('gets the sequence number, live and when the state is rebuilt', async () => {
    const files = new SimulatedFileSystem()
    const seen: number[] = []
    const mutator: Mutator<Sums, Add> = (_state, _add, { sequence }) => void seen.push(sequence)
    const { manager } = await openSums({ files, mutator })
    await addOnes(manager, 2)
    await manager.close()
    await (await openSums({ files, mutator })).manager.close()
    expect(seen).toEqual([1, 2, 1, 2])
  })

  const thrown = new Error('cannot add')
  const failing: ReadonlyArray<readonly [string, (by: number) => unknown, unknown]> = [
    ['throws', (by) => { if (by === 3) throw thrown }, thrown],
    ['gives a promise', (by) => (by === 3 ? Promise.reject(thrown) : undefined), undefined],
  ]
  const title = 'that %s ends the manager with the sequence named, and reopening says the same'
  test.each(failing)(title, async (_how, fail, cause) => {
    const mutator = ({ sums }: Sums, { by }: { by: number }): void => {
      sums.push(by)
      return fail(by) as void
    }
    const { files, manager } = await openSums({ mutator })
    await manager.apply({ by: 1 })
    const failures = await Promise.all([3, 1].map((by) => errorOf(manager.apply({ by }))))
    const [error, queued] = failures as [MiniStoreError, MiniStoreError]
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', sequence: 2 })
    expect(error.message).toContain('2')
    expect(error.cause).toBe(cause)
    expect(queued).toMatchObject({ code: 'ERR_MINISTORE_POISONED', sequence: 2, cause: error })
    for (const call of [manager.apply({ by: 1 }), manager.createSnapshot(), manager.compact(), manager.stateAt(1)]) {
      expect(await errorOf(call)).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause: error })
    }
    // The state in memory may be partly changed.
    expect(() => manager.state).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_POISONED', cause: error }))
    expect(() => manager.snapshot()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_POISONED' }))
    expect(manager.sequence).toBe(1)
    await manager.close()
    const again = await errorOf(openSums({ files, mutator }))
    expect(again).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', sequence: 2 })
    // The lock is free: with a fixed mutator the state opens.
    expect(await stateOn(files)).toEqual([1, 4])
  })
})

describe('a schema for mutations', () => {
  const schema = z.object({ by: z.string().transform(Number) })
  const open = (files: SimulatedFileSystem): Promise<StateManager<Sums, { by: number }, { by: string }>> =>
    StateManager.open(directory, {
      initialState: (): Sums => ({ sums: [] }),
      mutator: ({ sums }, { by }) => void sums.push(by),
      schema,
      fileSystem: files,
    })

  test('passes its output to the mutator and stores its input', async () => {
    const files = new SimulatedFileSystem()
    const manager = await open(files)
    await manager.apply({ by: '12' })
    expect(manager.state.sums).toEqual([12])
    expect(files.readFile(journalFile).toString()).toContain('{"by":"12"}')
    await manager.close()
    const again = await open(files)
    expect(again.state.sums).toEqual([12])
    await again.close()
  })

  test('that changes its input does not change the stored mutation', async () => {
    const inPlace = z.object({
      order: z.custom<{ cents: number }>().transform((order) => {
        order.cents *= 100
        return order
      }),
    })
    const files = new SimulatedFileSystem()
    const openTotal = (): Promise<StateManager<{ total: number }, { order: { cents: number } }>> =>
      StateManager.open(directory, {
        initialState: () => ({ total: 0 }),
        mutator: (state, { order }) => {
          state.total += order.cents
        },
        schema: inPlace,
        fileSystem: files,
      })
    const manager = await openTotal()
    await manager.apply({ order: { cents: 5 } })
    expect(files.readFile(journalFile).toString()).toContain('{"order":{"cents":5}}')
    expect(manager.state.total).toBe(500)
    expect(await manager.stateAt(1)).toEqual({ total: 500 })
    await manager.close()
    const again = await openTotal()
    expect(again.state.total).toBe(500)
    await again.close()
  })

  test('refuses an invalid mutation before its turn', async () => {
    const manager = await open(new SimulatedFileSystem())
    expect(await errorOf(manager.apply({ by: 12 } as never))).toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    expect(manager.sequence).toBe(0)
    await manager.close()
  })

  test('may be asynchronous', async () => {
    const { manager, files } = await openSums({
      schema: z.object({ by: z.number().refine(async (by) => (await Promise.resolve(by)) < 3, 'too much') }),
    })
    const results = await Promise.allSettled([1, 5, 2].map((by) => manager.apply({ by })))
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(manager.state.sums).toEqual([1, 3])
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 3])
  })
})

test('a codec with an asynchronous decode is refused, and nothing is written', async () => {
  const codec = { encode: JSON.stringify, decode: async (line: string) => JSON.parse(line) as Add }
  const { manager, files } = await openSums({ journal: { codec: codec as never } })
  const error = await errorOf(manager.apply({ by: 1 }))
  expect(error).toMatchObject({ code: 'ERR_MINISTORE_CODEC', message: expect.stringContaining('got a promise') as string })
  await manager.close()
  expect(files.readFile(journalFile).toString().split('\n')).toHaveLength(2)
})

test('a codec for mutations: live and rebuilt states get its decoded values', async () => {
  const files = new SimulatedFileSystem()
  const codec = {
    encode: (entry: Map<string, number>) => JSON.stringify([...entry]),
    decode: (line: string) => new Map(JSON.parse(line) as Array<[string, number]>),
  }
  const open = (): Promise<StateManager<number, Map<string, number>>> =>
    StateManager.open(directory, {
      initialState: () => 0,
      mutator: (state, mutation) => state + (mutation.get('by') ?? Number.NaN),
      journal: { codec },
      fileSystem: files,
    })
  const manager = await open()
  await manager.apply(new Map([['by', 5]]))
  expect(manager.state).toBe(5)
  await manager.close()
  const again = await open()
  expect(again.state).toBe(5)
  await again.close()
})

describe('a deep copy', () => {
  test('is returned by snapshot(): changing it does not change the state', async () => {
    const { manager } = await openSums()
    await addOnes(manager, 1)
    const copy = manager.snapshot()
    copy.sums.push(99)
    await addOnes(manager, 1)
    expect(manager.state.sums).toEqual([1, 2])
    expect(copy.sums).toEqual([1, 99])
    await manager.close()
  })
})

describe('close', () => {
  test('waits for earlier calls, refuses later ones, and leaves the state readable', async () => {
    const { files, manager } = await openSums()
    const applied = [manager.apply({ by: 1 }), manager.apply({ by: 1 })]
    const past = manager.stateAt(0)
    const closing = manager.close()
    expect(manager.close()).toBe(closing)
    for (const call of [manager.apply({ by: 1 }), manager.createSnapshot(), manager.compact(), manager.stateAt(0)]) {
      expect(await errorOf(call)).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    }
    expect(() => manager.changes()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
    await closing
    expect(await Promise.all(applied)).toEqual([1, 2])
    expect(await past).toEqual({ sums: [] })
    expect(manager.state.sums).toEqual([1, 2])
    expect(manager.snapshot()).toEqual({ sums: [1, 2] })
    const store = await MiniStore.open(journalFile, { fileSystem: files })
    await store.close()
  })

  test('is called by `await using`', async () => {
    const files = new SimulatedFileSystem()
    {
      await using manager = (await openSums({ files })).manager
      await addOnes(manager, 1)
    }
    expect((await openSums({ files })).manager.sequence).toBe(1)
  })

  test('a mutation whose toJSON closes the manager is refused', async () => {
    const { files, manager } = await openSums()
    const mutation = {
      by: 1,
      toJSON: () => {
        void manager.close()
        return { by: 1 }
      },
    }
    expect(await errorOf(manager.apply(mutation))).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    await manager.close()
    expect(await stateOn(files)).toEqual([])
  })
})
