import { AsyncLocalStorage } from 'node:async_hooks'

import { describe, expect, test, vi } from 'vitest'

import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { addOnes, damageSnapshot, directory, errorOf, openSums, stateOn, type SumManager, type SumOptions, type Sums } from './support.ts'

/** A mutator that changes states in place, and a copy of what it changes. */
const copied: SumOptions = { capture: ({ sums }: Sums) => ({ sums: [...sums] }) }

/** A mutator that returns new states, which nothing changes. */
const immutable: SumOptions = {
  mutator: ({ sums }, { by }) => Object.freeze({ sums: Object.freeze([...sums, (sums.at(-1) ?? 0) + by]) as number[] }),
  capture: (state: Sums) => state,
}

const snapshotsIn = (files: SimulatedFileSystem): string[] =>
  files.names(directory).filter((name) => /^snapshot-\d+\.json$/.test(name))

const numbersTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1)

/** Holds up the next write to a snapshot. */
function holdNextSnapshot(files: SimulatedFileSystem): { readonly begun: Promise<void>; readonly release: () => void } {
  const [begun, released] = [deferred(), deferred()]
  const open = files.open.bind(files)
  files.open = async (path, mode) => {
    const file = await open(path, mode)
    if (!/snapshot-\d+.*\.tmp$/.test(path)) return file
    files.open = open
    const write = file.write.bind(file)
    const held: typeof file.write = async (bytes, position) => {
      begun.resolve()
      await released.promise
      return await write(bytes, position)
    }
    return Object.assign(file, { write: held })
  }
  return { begun: begun.promise, release: () => released.resolve() }
}

/** A manager with three mutations, and a snapshot of them that is being written. */
async function openHeld(
  options: SumOptions = copied,
  call: (manager: SumManager) => Promise<unknown> = (manager) => manager.createSnapshot(),
): Promise<{
  readonly files: SimulatedFileSystem
  readonly manager: SumManager
  readonly called: Promise<unknown>
  readonly release: () => void
}> {
  const { files, manager } = await openSums(options)
  await addOnes(manager, 3)
  const { begun, release } = holdNextSnapshot(files)
  const called = call(manager)
  // A test that expects a rejection looks at it later.
  called.catch(() => {})
  await begun
  return { files, manager, called, release }
}

describe.each([
  ['a copy of the state', copied],
  ['immutable states', immutable],
])('with %s, a snapshot', (_, options) => {
  test('is written while mutations go on, and holds none of them', async () => {
    const { files, manager, called, release } = await openHeld(options)
    await addOnes(manager, 2)
    await manager.applyAll([{ by: 1 }, { by: 1 }])
    expect(manager.state.sums).toEqual(numbersTo(7))
    expect(snapshotsIn(files)).toEqual([])
    release()
    expect(await called).toMatchObject({ sequence: 3 })
    expect(files.readFile(`${directory}/snapshot-3.json`).toString()).toContain('{"sums":[1,2,3]}')
    await manager.close()
    expect(await stateOn(files, options)).toEqual(numbersTo(7))
  })

  test('that a compaction makes is durable before a record is dropped, and no other record is', async () => {
    const { files, manager, called, release } = await openHeld(options, (held) => held.compact())
    await addOnes(manager, 2)
    const deleted = vi.fn()
    const stop = files.onOperation(({ operation, path }) => {
      if (operation !== 'unlink' || !/jsonl\.\d+$/.test(path)) return
      deleted()
      expect(files.afterCrash({ keep: 'none' }).exists(`${directory}/snapshot-3.json`)).toBe(true)
    })
    release()
    expect(await called).toMatchObject({ sequence: 3, firstSequence: 4, snapshots: [{ sequence: 3 }] })
    expect(deleted).toHaveBeenCalledTimes(1)
    stop()
    // The active segment was sealed at the captured state, so the next compaction drops all that this one covers.
    expect(await manager.compact()).toMatchObject({ sequence: 5, firstSequence: 4 })
    await addOnes(manager, 1)
    expect(await manager.compact()).toMatchObject({ sequence: 6, firstSequence: 6 })
    await manager.close()
    expect(await stateOn(files, options)).toEqual(numbersTo(6))
    damageSnapshot(files, 6)
    expect(await stateOn(files, options)).toEqual(numbersTo(6))
  })

  test('that is due is begun by its apply, and one that is due meanwhile by an apply after it', async () => {
    const { files, manager } = await openSums({ ...options, snapshots: { everyMutations: 2 } })
    const { begun, release } = holdNextSnapshot(files)
    await addOnes(manager, 2)
    await begun
    await addOnes(manager, 3)
    expect(snapshotsIn(files)).toEqual([])
    release()
    await manager.createSnapshot()
    expect(snapshotsIn(files)).toEqual(['snapshot-2.json', 'snapshot-5.json'])
    await addOnes(manager, 1)
    expect(manager.sequence).toBe(6)
    await addOnes(manager, 1)
    await manager.close()
    expect(snapshotsIn(files)).toEqual(['snapshot-5.json', 'snapshot-7.json'])
    expect(await stateOn(files, options)).toEqual(numbersTo(7))
  })
})

describe('snapshots beside mutations', () => {
  test('are not written so without `capture`: mutations wait', async () => {
    const { manager, called, release } = await openHeld({})
    const applied = vi.fn()
    const later = manager.apply({ by: 1 }).then(applied)
    for (let turns = 0; turns < 20; turns++) await turn()
    expect(applied).not.toHaveBeenCalled()
    expect(manager.sequence).toBe(3)
    release()
    await Promise.all([called, later])
    await manager.close()
  })

  test('are of the state in their turn, in the order of the calls', async () => {
    const { files, manager } = await openSums(copied)
    const calls = [
      manager.createSnapshot(), manager.apply({ by: 1 }), manager.createSnapshot(), manager.apply({ by: 1 }),
      manager.compact(), manager.apply({ by: 1 }), manager.compact(), manager.apply({ by: 1 }), manager.createSnapshot(),
    ]
    const found = (await Promise.all(calls)).map((each) => (typeof each === 'number' ? each : each.sequence))
    expect(found).toEqual([0, 1, 1, 2, 2, 3, 3, 4, 4])
    expect(snapshotsIn(files)).toEqual(['snapshot-3.json', 'snapshot-4.json'])
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3, 4])
  })

  test('capture a state that holds every mutation up to its sequence number, once for each snapshot', async () => {
    const captured: Array<readonly [seen: number, sequence: number]> = []
    const files = new SimulatedFileSystem()
    const { manager } = await openSums({
      files,
      snapshots: { everyMutations: 1 },
      capture: ({ sums }: Sums) => {
        captured.push([sums.length, manager.sequence])
        return { sums: [...sums] }
      },
    })
    for (let round = 0; round < 20; round++) {
      await Promise.all([manager.apply({ by: 1 }), manager.applyAll([{ by: 1 }, { by: 1 }]), manager.compact()])
    }
    expect(captured.length).toBeGreaterThan(20)
    for (const [seen, sequence] of captured) expect(seen).toBe(sequence)
    await manager.close()
    expect(await stateOn(files)).toEqual(numbersTo(60))
  })

  test('are waited for by close, also one that is due, and a compaction ends', async () => {
    const { files, manager, called, release } = await openHeld(copied, (held) => held.compact())
    await addOnes(manager, 1)
    const closed = manager.close()
    const isClosed = vi.fn()
    void closed.then(isClosed)
    for (let turns = 0; turns < 20; turns++) await turn()
    expect(isClosed).not.toHaveBeenCalled()
    expect(await errorOf(manager.apply({ by: 1 }))).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    release()
    await closed
    expect(await called).toMatchObject({ sequence: 3, firstSequence: 4 })
    expect(await stateOn(files)).toEqual([1, 2, 3, 4])

    const due = await openSums({ ...copied, snapshots: { everyMutations: 1 } })
    await Promise.all([due.manager.apply({ by: 1 }), due.manager.close()])
    expect(snapshotsIn(due.files)).toEqual(['snapshot-1.json'])
  })

  test('do not make a mutation wait, however many snapshots wait for each other', async () => {
    const { files, manager, called, release } = await openHeld()
    const others = [manager.createSnapshot(), manager.compact()]
    await addOnes(manager, 1)
    others.push(manager.createSnapshot(), manager.compact())
    await addOnes(manager, 1)
    release()
    const found = await Promise.all([called, ...others])
    expect(found).toMatchObject([{ sequence: 3 }, { sequence: 3 }, { sequence: 3 }, { sequence: 4 }, { sequence: 4 }])
    expect(snapshotsIn(files)).toEqual(['snapshot-3.json', 'snapshot-4.json'])
    await manager.close()
    expect(await stateOn(files)).toEqual(numbersTo(5))
  })

  test('may end after the manager was poisoned; then nothing is dropped', async () => {
    const { files, manager, called, release } = await openHeld(copied, (held) => held.compact())
    await addOnes(manager, 1)
    files.failOn({ operation: 'dataSync', path: /journal/ }, 'EIO')
    expect(await errorOf(manager.apply({ by: 1 }))).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    release()
    expect(await errorOf(called)).toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    expect(manager.state.sums).toEqual([1, 2, 3, 4])
    await manager.close()
    expect(files.exists(`${directory}/journal.jsonl.001`)).toBe(true)
    expect(snapshotsIn(files)).toEqual(['snapshot-3.json'])
    expect(await stateOn(files)).toEqual([1, 2, 3, 4])
  })

  test('hold what was captured, even if a mutator then leaves the state half changed', async () => {
    const { files, manager, called, release } = await openHeld({
      ...copied,
      mutator: ({ sums }, { by }) => {
        sums.push((sums.at(-1) ?? 0) + by)
        if (by > 1) throw new Error('half changed')
      },
    })
    expect(await errorOf(manager.apply({ by: 2 }))).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR' })
    release()
    expect(await called).toMatchObject({ sequence: 3 })
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3, 5])
  })

  test('are not written once the directory was replaced', async () => {
    const { files, manager, called, release } = await openHeld(copied, (held) => held.compact())
    await files.rename(directory, '/elsewhere')
    await files.makeDirectory(directory)
    release()
    expect(await errorOf(called)).toMatchObject({ code: 'ERR_MINISTORE_MOVED' })
    expect(files.names(directory)).toEqual([])
    await manager.close()
  })

  test('that fail are reported, and retried by the apply that finds one due again', async () => {
    const onError = vi.fn()
    const { files, manager } = await openSums({ ...copied, snapshots: { everyMutations: 2, onError } })
    files.failOn({ operation: 'write', path: /snapshot/ }, 'ENOSPC')
    await addOnes(manager, 3)
    await manager.createSnapshot()
    expect(onError).toHaveBeenCalledTimes(1)
    expect(onError.mock.calls[0]?.[0]).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    await addOnes(manager, 2)
    await manager.close()
    expect(snapshotsIn(files)).toEqual(['snapshot-3.json', 'snapshot-5.json'])
  })

  test('are refused or reported if `capture` throws, or returns nothing or a promise', async () => {
    const onError = vi.fn()
    const capture = vi.fn<(state: Sums) => Sums>(({ sums }) => ({ sums: [...sums] }))
    const { files, manager } = await openSums({ capture, snapshots: { everyMutations: 1, onError } })
    const broken = new Error('not now')
    capture.mockImplementation(() => {
      throw broken
    })
    expect(await manager.apply({ by: 1 })).toBe(1)
    await expect(manager.createSnapshot()).rejects.toBe(broken)
    await expect(manager.compact()).rejects.toBe(broken)
    expect(onError.mock.calls).toEqual([[broken]])
    capture.mockReturnValue(undefined as never)
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' })
    capture.mockReturnValue(Promise.reject(broken) as never)
    await expect(manager.createSnapshot()).rejects.toThrow(/promise/)
    expect(snapshotsIn(files)).toEqual([])
    capture.mockImplementation((state) => structuredClone(state))
    expect(await manager.createSnapshot()).toMatchObject({ sequence: 1 })
    await manager.close()
    expect(await stateOn(files)).toEqual([1])
  })

  test('run `capture` and report in the asynchronous context of their call', async () => {
    const contexts = new AsyncLocalStorage<string>()
    const seen: Array<string | undefined> = []
    const { files, manager } = await openSums({
      capture: ({ sums }: Sums) => {
        seen.push(contexts.getStore())
        return { sums: [...sums] }
      },
      snapshots: { everyMutations: 2, onError: () => seen.push(`${contexts.getStore()} failed`) },
    })
    files.failOn({ operation: 'write', path: /snapshot/ }, 'ENOSPC')
    const applies = ['first', 'second'].map((name) => contexts.run(name, () => manager.apply({ by: 1 })))
    await Promise.all([...applies, contexts.run('third', () => manager.compact())])
    expect(seen).toHaveLength(3)
    expect(new Set(seen)).toEqual(new Set(['second', 'second failed', 'third']))
    await manager.close()
  })
})
