import { describe, expect, test, vi } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import {
  addOnes, changesOf, damageSnapshot, directory, errorOf, journalFile, openSums, stateOn, type SumManager,
} from './support.ts'

async function firstSequenceOf(manager: SumManager): Promise<number> {
  for await (const { sequence } of manager.changes()) return sequence
  return manager.sequence + 1
}

const numbersOf = (infos: ReadonlyArray<{ readonly sequence: number }>): number[] =>
  infos.map(({ sequence }) => sequence)

describe('createSnapshot', () => {
  test('writes the state and its sequence number, durable when it resolves', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 2)
    const info = await manager.createSnapshot()
    const path = `${directory}/snapshot-2.json`
    expect(info).toEqual({ sequence: 2, path, bytes: files.readFile(path).length })
    const durable = files.afterCrash({ keep: 'none' }).readFile(path).toString()
    expect(durable).toMatch(/^\{"seq":2,.*"state":\{"sums":\[1,2\]\}\}\n$/)
    await manager.close()
  })

  test('of a state that already has one writes nothing, also after reopening', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 2)
    const info = await manager.createSnapshot()
    const changes = changesOf(files)
    expect(await manager.createSnapshot()).toEqual(info)
    expect(changes).toEqual([])
    await manager.close()
    const again = await openSums({ files })
    const later = changesOf(files)
    expect(await again.manager.createSnapshot()).toEqual(info)
    expect(later).toEqual([])
    await again.manager.close()
  })

  test('waits for its turn: it stores the state after all earlier calls', async () => {
    const { manager } = await openSums()
    const [, info] = await Promise.all([addOnes(manager, 1), manager.createSnapshot(), manager.apply({ by: 5 })])
    expect(info.sequence).toBe(1)
    await manager.close()
  })

  test('of the initial state has sequence 0', async () => {
    const { files, manager } = await openSums()
    expect(await manager.createSnapshot()).toMatchObject({ sequence: 0 })
    await manager.close()
    const again = await openSums({ files })
    expect(again.manager.recovery.snapshotSequence).toBe(0)
    await again.manager.close()
  })

  test('that fails leaves the manager usable and the older one in place', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 1)
    await manager.createSnapshot()
    await addOnes(manager, 1)
    files.failOn({ operation: 'write', path: /snapshot/ }, 'ENOSPC')
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(await stateOn(files)).toEqual([1, 2])
    expect(await manager.createSnapshot()).toMatchObject({ sequence: 2 })
    await manager.close()
  })

  test('whose name may not be durable leaves the manager usable, and the next one makes it durable', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 1)
    files.failOn({ operation: 'syncDirectory', path: directory }, 'EIO')
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await addOnes(manager, 1)
    expect(await manager.createSnapshot()).toMatchObject({ sequence: 2 })
    await manager.close()
  })

  test('refuses a state that JSON does not preserve; a codec makes it storable', async () => {
    const files = new SimulatedFileSystem()
    const codec = {
      encode: ({ sums }: { sums: number[] }) => JSON.stringify(sums),
      decode: (text: string) => ({ sums: JSON.parse(text) as number[] }),
    }
    const { manager } = await openSums({ files, initialState: () => ({ sums: [], at: new Date() }) })
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' })
    await addOnes(manager, 1)
    await manager.close()
    const coded = await openSums({ files, snapshots: { codec } })
    await coded.manager.createSnapshot()
    expect(files.readFile(`${directory}/snapshot-1.json`).toString()).toContain('"state":[1]}')
    await coded.manager.close()
    expect(await stateOn(files, { snapshots: { codec } })).toEqual([1])
  })
})

describe('compact', () => {
  test('creates a snapshot and drops the records that the oldest kept one covers', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 3)
    expect(await manager.compact()).toMatchObject({ sequence: 3, firstSequence: 4, damagedSnapshots: [] })
    await addOnes(manager, 2)
    const second = await manager.compact()
    // The journal begins after the older snapshot, so that opening can fall back to that snapshot.
    expect(second).toMatchObject({ sequence: 5, firstSequence: 4 })
    expect(numbersOf(second.snapshots)).toEqual([5, 3])
    await addOnes(manager, 1)
    const third = await manager.compact()
    expect(third).toMatchObject({ sequence: 6, firstSequence: 6 })
    expect(numbersOf(third.snapshots)).toEqual([6, 5])
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5, 6])
  })

  test.each([1, 2, 3])('keeping %i, opening can fall back to every kept snapshot', async (keep) => {
    const { files, manager } = await openSums({ snapshots: { keep }, journal: { maxBytesPerSegment: 70 } })
    for (let round = 0; round < 4; round++) {
      await addOnes(manager, 3)
      await manager.compact()
    }
    const report = await manager.compact()
    expect(report.snapshots).toHaveLength(keep)
    await addOnes(manager, 1)
    await manager.close()
    for (const newer of numbersOf(report.snapshots).slice(0, -1)) {
      damageSnapshot(files, newer)
      expect(await stateOn(files)).toHaveLength(13)
    }
  })

  test('without changes since the last one writes nothing, also after reopening', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 3)
    const report = await manager.compact()
    const changes = changesOf(files)
    expect(await manager.compact()).toEqual(report)
    expect(changes).toEqual([])
    await manager.close()
    const again = await openSums({ files })
    const later = changesOf(files)
    expect(await again.manager.compact()).toEqual(report)
    expect(later).toEqual([])
    await again.manager.close()
  })

  test('drops no records that only a damaged snapshot covers', async () => {
    const { files, manager } = await openSums()
    for (let round = 0; round < 2; round++) {
      await addOnes(manager, 1)
      await manager.compact()
    }
    damageSnapshot(files, 2)
    await addOnes(manager, 1)
    const report = await manager.compact()
    const path = `${directory}/snapshot-2.json`
    expect(report.damagedSnapshots).toMatchObject([{ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED', path }])
    // The snapshot before it stays, with the mutations since; the damaged one stays as evidence.
    expect(numbersOf(report.snapshots)).toEqual([3, 2, 1])
    expect(report.firstSequence).toBe(2)
    await manager.close()
    damageSnapshot(files, 3)
    expect(await stateOn(files)).toEqual([1, 2, 3])
  })

  test.each([2, 3, 4])('keeping %i, names each damaged snapshot that it would rely on', async (keep) => {
    for (let which = 1; which <= keep; which++) {
      const { files, manager } = await openSums({ snapshots: { keep } })
      for (let n = 0; n < keep; n++) {
        await addOnes(manager, 1)
        await manager.compact()
      }
      // compact() relies on the snapshot of the current state and on the older ones that are kept.
      damageSnapshot(files, which)
      const report = await manager.compact()
      expect(report.damagedSnapshots).toMatchObject([{ sequence: which }])
      expect(numbersOf(report.snapshots)).toEqual(Array.from({ length: keep }, (_, n) => keep - n))
      await manager.close()
      expect(await stateOn(files)).toHaveLength(keep)
    }
  })

  test.each([2, 3, 4])('keeping %i, keeps an older snapshot and its mutations for each damaged one', async (keep) => {
    for (let which = 2; which <= keep; which++) {
      const { files, manager } = await openSums({ snapshots: { keep } })
      for (let n = 0; n < keep; n++) {
        await addOnes(manager, 1)
        await manager.compact()
      }
      await addOnes(manager, 1)
      damageSnapshot(files, which)
      const report = await manager.compact()
      expect(report.damagedSnapshots).toMatchObject([{ sequence: which }])
      expect(numbersOf(report.snapshots)).toEqual(Array.from({ length: keep + 1 }, (_, n) => keep + 1 - n))
      expect(report.firstSequence).toBe(2)
      await manager.close()
      // Opening can fall back to any other one.
      for (let newer = keep + 1; newer > 1; newer--) {
        if (newer !== which) damageSnapshot(files, newer)
        expect(await stateOn(files)).toHaveLength(keep + 1)
      }
    }
  })

  test('that finds no intact snapshot writes the state again before it drops anything', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 2)
    await manager.createSnapshot()
    damageSnapshot(files, 2)
    const report = await manager.compact()
    expect(report).toMatchObject({ sequence: 2, firstSequence: 3 })
    expect(report.damagedSnapshots).toHaveLength(1)
    expect(await stateOn(files)).toEqual([1, 2])
    await manager.close()
  })

  test('makes the snapshot durable before it deletes', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 3)
    const deleted: string[] = []
    files.onOperation(({ operation, path }) => {
      if (operation !== 'unlink' || !/jsonl\.\d+$/.test(path)) return
      deleted.push(path)
      expect(files.afterCrash({ keep: 'none' }).exists(`${directory}/snapshot-3.json`)).toBe(true)
    })
    await manager.compact()
    expect(deleted).toHaveLength(1)
    await manager.close()
  })

  test('whose rotation fails and is rolled back leaves the manager usable', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 3)
    files.failOn({ operation: 'rename', path: /journal/ }, 'EIO')
    expect(await errorOf(manager.compact())).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(files.names(directory).filter((name) => name.startsWith('snapshot'))).toEqual([])
    await addOnes(manager, 1)
    expect(await manager.compact()).toMatchObject({ sequence: 4, firstSequence: 5 })
    await addOnes(manager, 1)
    expect(await manager.compact()).toMatchObject({ sequence: 5, firstSequence: 5 })
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5])
  })

  test('that leaves the journal file names unknown ends the manager; the state stays readable', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 3)
    await manager.createSnapshot()
    files.failOn({ operation: 'syncDirectory', path: directory }, 'EIO')
    const error = await errorOf(manager.compact())
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    for (const call of [manager.apply({ by: 1 }), manager.createSnapshot(), manager.compact()]) {
      expect(await errorOf(call)).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause: error })
    }
    expect(manager.state.sums).toEqual([1, 2, 3])
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3])
  })

  test('keeps the journal of a thousand rounds short', async () => {
    const { files, manager } = await openSums({
      mutator: () => ({ sums: [0] }),
      snapshots: { keep: 1 },
    })
    for (let round = 0; round < 1000; round++) {
      await addOnes(manager, 1)
      if (round % 10 === 9) await manager.compact()
    }
    expect(await firstSequenceOf(manager)).toBe(1001)
    expect(files.names(directory).filter((name) => name.startsWith('journal'))).toHaveLength(2)
    await manager.close()
    const store = await MiniStore.open(journalFile, { fileSystem: files })
    expect(store.lastSequence).toBe(1000)
    await store.close()
  })
})

describe('snapshots.everyMutations', () => {
  test('creates a snapshot in the apply that is this many mutations after the last one', async () => {
    const { files, manager } = await openSums({ snapshots: { everyMutations: 3 } })
    const snapshots = (): string[] => files.names(directory).filter((name) => name.startsWith('snapshot'))
    await addOnes(manager, 2)
    expect(snapshots()).toEqual([])
    await addOnes(manager, 1)
    expect(snapshots()).toEqual(['snapshot-3.json'])
    await addOnes(manager, 1)
    // A requested snapshot counts.
    await manager.createSnapshot()
    await addOnes(manager, 2)
    expect(snapshots()).toEqual(['snapshot-3.json', 'snapshot-4.json'])
    await addOnes(manager, 1)
    expect(snapshots()).toEqual(['snapshot-4.json', 'snapshot-7.json'])
    await manager.close()
  })

  test('counts from the snapshot that opening began with', async () => {
    const { files, manager } = await openSums({ snapshots: { everyMutations: 3 } })
    await addOnes(manager, 4)
    await manager.close()
    const again = await openSums({ files, snapshots: { everyMutations: 3 } })
    await addOnes(again.manager, 1)
    expect(files.exists(`${directory}/snapshot-5.json`)).toBe(false)
    await addOnes(again.manager, 1)
    expect(files.exists(`${directory}/snapshot-6.json`)).toBe(true)
    await again.manager.close()
  })

  test('a failed snapshot never fails the durable apply; it is reported, and retried after as many', async () => {
    const onError = vi.fn()
    const { files, manager } = await openSums({ snapshots: { everyMutations: 2, onError } })
    const fault = files.failOn({ operation: 'write', path: /snapshot/, times: 'always' }, 'ENOSPC')
    await addOnes(manager, 3)
    expect(onError).toHaveBeenCalledTimes(1)
    expect(onError.mock.calls[0]?.[0]).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    await addOnes(manager, 1)
    expect(onError).toHaveBeenCalledTimes(2)
    fault.remove()
    await addOnes(manager, 2)
    expect(onError).toHaveBeenCalledTimes(2)
    expect(files.exists(`${directory}/snapshot-6.json`)).toBe(true)
    expect(manager.sequence).toBe(6)
    await manager.close()
  })

  test('emits a warning without onError, and when onError throws', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockReturnValue()
    const { files, manager } = await openSums({ snapshots: { everyMutations: 1 } })
    files.failOn({ operation: 'write', path: /snapshot/, times: 'always' }, 'ENOSPC')
    await addOnes(manager, 1)
    expect(warn).toHaveBeenLastCalledWith(expect.objectContaining({ code: 'ERR_MINISTORE_IO' }))
    await manager.close()
    const thrown = new Error('the listener')
    const onError = (): never => {
      throw thrown
    }
    const again = await openSums({ files, snapshots: { everyMutations: 1, onError } })
    expect(await again.manager.apply({ by: 1 })).toBe(2)
    expect(warn).toHaveBeenLastCalledWith(thrown)
    warn.mockRestore()
    await again.manager.close()
  })

  test('a snapshot whose name may not be durable is rewritten on request, though its file exists', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 1)
    const { path } = await manager.createSnapshot()
    await files.unlink(path)
    // The second sync: the first one syncs the directory's own name.
    files.failOn({ operation: 'syncDirectory', nth: 2 }, 'EIO')
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    files.clearFaults()
    const changes = changesOf(files)
    await manager.createSnapshot()
    expect(changes).toContain(`syncDirectory ${directory}`)
    await manager.close()
  })

  test('creates no snapshot when it is not set', async () => {
    const { files, manager } = await openSums()
    await addOnes(manager, 50)
    await manager.close()
    expect(files.names(directory).filter((name) => name.startsWith('snapshot'))).toEqual([])
  })
})
