import { describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect, take } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { addOnes, damageSnapshot, directory, errorOf, openSums } from './support.ts'

describe('stateAt', () => {
  test('returns the state after any mutation; 0 is the initial state', async () => {
    const { manager } = await openSums()
    await addOnes(manager, 2)
    await manager.createSnapshot()
    await addOnes(manager, 2)
    const all = await Promise.all([0, 1, 2, 3, 4].map(async (sequence) => (await manager.stateAt(sequence)).sums))
    expect(all).toEqual([[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]])
    await manager.close()
  })

  test('begins with the nearest earlier snapshot', async () => {
    let mutations = 0
    const { manager } = await openSums({ mutator: () => void mutations++, snapshots: { keep: 3 } })
    for (let round = 0; round < 3; round++) {
      await addOnes(manager, 10)
      await manager.createSnapshot()
    }
    mutations = 0
    await manager.stateAt(22)
    expect(mutations).toBe(2)
    await manager.stateAt(10)
    expect(mutations).toBe(2)
    await manager.close()
  })

  test('is the caller\'s own', async () => {
    const { manager } = await openSums()
    await addOnes(manager, 1)
    const past = await manager.stateAt(1)
    past.sums.push(99)
    expect(manager.state.sums).toEqual([1])
    expect(await manager.stateAt(1)).toEqual({ sums: [1] })
    await manager.close()
  })

  test('is refused with the sequence numbers when the needed records were dropped', async () => {
    const { manager } = await openSums({ snapshots: { keep: 1 } })
    await addOnes(manager, 3)
    await manager.compact()
    await addOnes(manager, 1)
    const error = await errorOf(manager.stateAt(2))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 2 })
    expect(error.message).toMatch(/state at 2.*mutations before 4/)
    expect(await manager.stateAt(3)).toEqual({ sums: [1, 2, 3] })
    expect(await manager.stateAt(4)).toEqual({ sums: [1, 2, 3, 4] })
    expect(await manager.stateAt(0)).toEqual({ sums: [] })
    await manager.close()
  })

  test('skips damaged snapshots, down to the initial state', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 2)
    await manager.createSnapshot()
    await addOnes(manager, 1)
    damageSnapshot(files, 2)
    expect(await manager.stateAt(3)).toEqual({ sums: [1, 2, 3] })
    await manager.close()
  })

  test('does not block apply, and does not include a mutation applied meanwhile', async () => {
    const gate = deferred()
    const files = new SimulatedFileSystem()
    const { manager } = await openSums({ files })
    await addOnes(manager, 2)
    const list = files.list.bind(files)
    files.list = async (path) => {
      await gate.promise
      return await list(path)
    }
    const past = manager.stateAt(2)
    expect(await manager.apply({ by: 1 })).toBe(3)
    // Only close() waits for it.
    const order: string[] = []
    const closing = manager.close().then(() => order.push('closed'))
    const read = past.then(() => order.push('read'))
    gate.resolve()
    await Promise.all([closing, read])
    expect(order).toEqual(['read', 'closed'])
    expect(await past).toEqual({ sums: [1, 2] })
  })

  test('finds the snapshot of a compaction that dropped its records meanwhile', async () => {
    const reached = deferred()
    const gate = deferred()
    const files = new SimulatedFileSystem()
    const { manager } = await openSums({ files, snapshots: { keep: 1 } })
    await addOnes(manager, 3)
    // The segment is removed before it is opened for the first time.
    const open = files.open.bind(files)
    let isHeld = false
    files.open = async (path, mode) => {
      if (mode === 'read' && path.includes('journal') && !isHeld) {
        isHeld = true
        reached.resolve()
        await gate.promise
      }
      return await open(path, mode)
    }
    const past = manager.stateAt(3)
    await reached.promise
    await manager.compact()
    gate.resolve()
    expect(await past).toEqual({ sums: [1, 2, 3] })
    expect(isHeld).toBe(true)
    await manager.close()
  })

  test.each([-1, 1.5, '1', undefined, Number.NaN, 4])('of %s is misuse', async (sequence) => {
    const { manager } = await openSums()
    await addOnes(manager, 3)
    await expect(manager.stateAt(sequence as number)).rejects.toThrow(/sequence/)
    await manager.close()
  })
})

describe('changes', () => {
  test('returns the mutations with their numbers, for any range', async () => {
    const { manager } = await openSums()
    for (const by of [5, 6, 7]) await manager.apply({ by })
    expect(await collect(manager.changes())).toEqual(
      [5, 6, 7].map((by, index) => ({ sequence: index + 1, record: { by } })),
    )
    expect((await collect(manager.changes({ from: 2, to: 2 }))).map(({ record }) => record.by)).toEqual([6])
    await manager.close()
  })

  test('begin with the oldest record in the journal', async () => {
    const { manager } = await openSums({ snapshots: { keep: 1 } })
    await addOnes(manager, 2)
    await manager.compact()
    await addOnes(manager, 1)
    expect((await collect(manager.changes())).map(({ sequence }) => sequence)).toEqual([3])
    await expect(collect(manager.changes({ from: 1 }))).rejects.toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE' })
    await manager.close()
  })

  test('with follow include future mutations once they are durable, until the signal or close', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 1)
    const ending = new AbortController()
    const iterator = manager.changes({ follow: true, signal: ending.signal })[Symbol.asyncIterator]()
    expect((await take(iterator, 1)).map(({ sequence }) => sequence)).toEqual([1])
    const next = iterator.next()
    await manager.apply({ by: 2 })
    expect(await next).toMatchObject({ value: { sequence: 2, record: { by: 2 } } })
    expect(files.exists(`${directory}/journal.jsonl`)).toBe(true)
    const aborted = iterator.next()
    ending.abort(new Error('enough'))
    await expect(aborted).rejects.toThrow('enough')
    const rest = collect(manager.changes({ from: 2, follow: true }))
    const applied = manager.apply({ by: 3 })
    await manager.close()
    expect(await applied).toBe(3)
    expect((await rest).map(({ sequence }) => sequence)).toEqual([2, 3])
  })

  test('refuse misspelt options', async () => {
    const { manager } = await openSums()
    expect(() => manager.changes({ form: 1 } as never)).toThrow('did you mean `from`')
    expect(() => manager.changes({ salvage: () => {} } as never)).toThrow('Unknown option `salvage`')
    expect(() => manager.changes({ from: 0 })).toThrow(RangeError)
    await manager.close()
  })
})
