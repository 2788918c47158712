import { describe, expect, test } from 'vitest'

import { MiniStore, MiniStoreError, type Snapshots } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { MemoryJournal, MemoryLog, MemorySnapshots } from '../support/memory-log.ts'
import { errorOf } from './support.ts'

const definition = {
  initialState: () => [] as string[],
  mutator: (state: string[], word: string): void => void state.push(word),
}

type Words = StateManager<string[], string>

const over = (log: MemoryLog, snapshots: Snapshots<string[]> = new MemorySnapshots<string[]>()): Promise<Words> =>
  StateManager.over(new MemoryJournal<string>(log), snapshots, definition)

/** Every call of a manager besides `close`. */
const calls: ReadonlyArray<[string, (manager: Words) => Promise<unknown>]> = [
  ['apply', (manager) => manager.apply('x')],
  ['applyAll', (manager) => manager.applyAll(['x', 'y'])],
  ['applyAll of nothing', (manager) => manager.applyAll([])],
  ['createSnapshot', (manager) => manager.createSnapshot()],
  ['compact', (manager) => manager.compact()],
  ['stateAt', (manager) => manager.stateAt(1)],
  ['changes', async (manager) => manager.changes()],
]

describe('a manager whose journal was taken over', () => {
  async function fenced(first: (manager: Words) => Promise<unknown>): Promise<Words> {
    const log = new MemoryLog()
    const manager = await over(log)
    await manager.apply('a')
    const successor = await over(log)
    await successor.apply('b')
    expect(await errorOf(first(manager))).toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(await successor.applyAll(['c', 'd'])).toEqual({ first: 3, last: 4 })
    expect(successor.state).toEqual(['a', 'b', 'c', 'd'])
    return manager
  }

  test.each(calls)('refuses %s with FENCED; its state stays readable', async (_, call) => {
    const manager = await fenced((one) => one.apply('x'))
    expect(await errorOf(call(manager))).toMatchObject({ code: 'ERR_MINISTORE_FENCED', cause: { code: 'ERR_MINISTORE_FENCED' } })
    expect([manager.state, manager.snapshot(), manager.sequence]).toEqual([['a'], ['a'], 1])
    await manager.close()
    expect(await errorOf(call(manager))).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    expect(manager.state).toEqual(['a'])
  })

  test.each([calls[0], calls[1], calls[4]] as typeof calls)('notices it in %s', async (_, call) => {
    const manager = await fenced(call)
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    await manager.close()
  })

  test.each([calls[0], calls[1], calls[4]] as typeof calls)('notices it in %s, also if the journal throws instead of rejecting', async (_, call) => {
    const journal = new MemoryJournal<string>(new MemoryLog())
    const manager = await StateManager.over(journal, new MemorySnapshots<string[]>(), definition)
    const refuse = (): never => {
      throw new MiniStoreError('ERR_MINISTORE_FENCED', 'Another writer has taken over')
    }
    Object.assign(journal, { append: refuse, appendAll: refuse, truncateBefore: refuse })
    expect(await errorOf(call(manager))).toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    await manager.close()
  })

  test('does not take an error of validate for one of the journal', async () => {
    const error = new MiniStoreError('ERR_MINISTORE_FENCED', 'another journal')
    const manager = await StateManager.over(new MemoryJournal<string>(new MemoryLog()), new MemorySnapshots<string[]>(), {
      ...definition,
      validate: (_state, word) => {
        if (word === 'x') throw error
      },
    })
    await expect(manager.apply('x')).rejects.toBe(error)
    expect(await manager.apply('a')).toBe(1)
    await manager.close()
  })
})

test.each([calls[3], calls[4]] as typeof calls)('%s of a manager that another one has outrun changes no snapshot and no record', async (_, call) => {
  const log = new MemoryLog()
  const snapshots = new MemorySnapshots<string[]>(new Map(), 1)
  const manager = await over(log, snapshots)
  await manager.apply('a')
  await manager.createSnapshot()
  await manager.apply('b')
  snapshots.texts.set(9, '["newer"]')
  expect(await errorOf(call(manager))).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', path: 'memory/9', sequence: 9 })
  expect([snapshots.sequences, log.texts.length]).toEqual([[9, 1], 2])
  // One that is damaged does not count.
  snapshots.texts.set(9, 'damaged')
  await call(manager)
  expect(snapshots.sequences).toEqual([9, 2])
  await manager.close()
})

describe('a manager beneath which something else appends', () => {
  test.each([calls[0], calls[1]] as typeof calls)('is refused by %s, writes nothing, and ends', async (_, call) => {
    const journal = await MiniStore.open<string>('/log.jsonl', { fileSystem: new SimulatedFileSystem() })
    const manager = await StateManager.over(journal, new MemorySnapshots<string[]>(), definition)
    await manager.apply('a')
    await journal.append('from elsewhere')
    const cause = { code: 'ERR_MINISTORE_SEQUENCE_CONFLICT', expectedSequence: 1, sequence: 2 }
    expect(await errorOf(call(manager))).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause })
    for (const [, later] of calls) expect(await errorOf(later(manager))).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause })
    expect(await journal.replay()).toEqual(['a', 'from elsewhere'])
    expect(manager.state).toEqual(['a'])
    await manager.close()
  })

  test('tells its own conflict from that of the caller', async () => {
    const journal = await MiniStore.open<string>('/log.jsonl', { fileSystem: new SimulatedFileSystem() })
    const manager = await StateManager.over(journal, new MemorySnapshots<string[]>(), definition)
    await manager.apply('a')
    expect(await errorOf(manager.apply('b', { expectedSequence: 0 }))).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_CONFLICT' })
    expect(await manager.apply('b', { expectedSequence: 1 })).toBe(2)
    await manager.close()
  })
})

describe('opening while another writer goes on', () => {
  /** Lets the other writer act once, right after the list of snapshots was read for the nth time. */
  function interrupted(snapshots: MemorySnapshots<string[]>, nth: number, act: () => Promise<unknown>): MemorySnapshots<string[]> {
    let lists = 0
    const list = snapshots.list.bind(snapshots)
    return Object.assign(snapshots, {
      list: async () => {
        const found = await list()
        if (++lists === nth) await act()
        return found
      },
    })
  }

  /** A journal that shows what others appended only after `refresh`. */
  class CachedJournal extends MemoryJournal<string> {
    #range = [1, 0] as [number, number]

    constructor(log: MemoryLog) {
      super(log)
      this.#look()
    }

    override get firstSequence(): number {
      return this.#range[0]
    }

    override get lastSequence(): number {
      return this.#range[1]
    }

    override async refresh(): Promise<void> {
      this.#look()
    }

    #look(): void {
      this.#range = [this.log.first, this.log.last]
    }
  }

  test('looks again when a snapshot is ahead of the journal that it knows', async () => {
    const log = new MemoryLog()
    const journal = new CachedJournal(log)
    const snapshots = new MemorySnapshots<string[]>()
    log.write(['"a"', '"b"'])
    await snapshots.create(['a', 'b'], 2)
    const manager = await StateManager.over(journal, snapshots, definition)
    expect([manager.state, manager.sequence]).toEqual([['a', 'b'], 2])
    await manager.close()
  })

  test('looks again when a snapshot was made after its list, ahead of the journal that it knows', async () => {
    const fileSystem = new SimulatedFileSystem()
    await using writer = await MiniStore.open<string>('/log.jsonl', { fileSystem })
    await writer.append('a')
    const reader = await MiniStore.read<string>('/log.jsonl', { fileSystem })
    const snapshots = interrupted(new MemorySnapshots<string[]>(), 1, async () => {
      await writer.appendAll(['b', 'c', 'd'])
      await snapshots.create(['a', 'b', 'c'], 3)
    })
    const manager = await StateManager.over<string[], string, never>(reader, snapshots, definition)
    expect([manager.state, manager.sequence, manager.recovery.snapshotSequence]).toEqual([['a', 'b', 'c', 'd'], 4, 3])
    await manager.close()
  })

  test('refuses a restored state that stays ahead of the journal and is in no list', async () => {
    const log = new MemoryLog()
    log.write(['"a"'])
    const snapshots = new MemorySnapshots<string[]>(new Map([[3, '["a","b","c"]']]))
    Object.assign(snapshots, { list: async () => [] })
    expect(await errorOf(over(log, snapshots))).toMatchObject({
      code: 'ERR_MINISTORE_SNAPSHOT_AHEAD',
      message: expect.stringMatching(/^The snapshot has sequence number 3, but the journal ends with 1\./) as string,
      sequence: 3,
    })
  })

  test('looks again when records were dropped for a snapshot that is not in its list', async () => {
    const log = new MemoryLog()
    log.write(['"a"', '"b"'])
    const texts = new Map<number, string>()
    const others = new MemorySnapshots<string[]>(texts)
    const snapshots = interrupted(new MemorySnapshots<string[]>(texts), 1, async () => {
      await others.create(['a', 'b'], 2)
      log.texts.splice(0, 2)
      log.first = 3
      log.write(['"c"'])
    })
    // The newest snapshot is read before the other writer makes it: the gap shows.
    const restore = snapshots.restore.bind(snapshots)
    let restores = 0
    Object.assign(snapshots, { restore: async (options?: object) => (++restores === 1 ? undefined : await restore(options)) })
    const manager = await StateManager.over(new CachedJournal(log), snapshots, definition)
    expect([manager.state, manager.recovery.snapshotSequence, restores]).toEqual([['a', 'b', 'c'], 2, 2])
    await manager.close()
  })

  test('looks again when records are gone while it folds them', async () => {
    const log = new MemoryLog()
    log.write(['"a"', '"b"', '"c"'])
    const snapshots = new MemorySnapshots<string[]>()
    const journal = new CachedJournal(log)
    const entries = journal.entries.bind(journal)
    let reads = 0
    Object.assign(journal, {
      entries: (range?: object) => {
        if (++reads > 1) return entries(range)
        snapshots.texts.set(3, '["a","b","c"]')
        log.texts.splice(0, 3)
        log.first = 4
        return entries(range)
      },
    })
    const manager = await StateManager.over(journal, snapshots, definition)
    expect([manager.state, manager.recovery.snapshotSequence, manager.recovery.replayed]).toEqual([['a', 'b', 'c'], 3, 0])
    await manager.close()
  })

  test.each([
    ['SNAPSHOT_AHEAD', { 5: '["a"]' }],
    ['STATE_GAP', {}],
  ])('does not look again for ever: %s if nothing changes', async (code, kept) => {
    const log = new MemoryLog()
    log.first = 3
    log.write(['"c"'])
    let lists = 0
    const snapshots = new MemorySnapshots<string[]>(new Map(Object.entries(kept).map(([key, text]) => [Number(key), text])))
    const list = snapshots.list.bind(snapshots)
    Object.assign(snapshots, { list: () => (lists++, list()) })
    expect(await errorOf(over(log, snapshots))).toMatchObject({ code: `ERR_MINISTORE_${code}` })
    expect(lists).toBe(2)
  })

  test('gives up after ten looks that each found something else', async () => {
    const log = new MemoryLog()
    let lists = 0
    const snapshots = new MemorySnapshots<string[]>()
    Object.assign(snapshots, { list: async () => [{ sequence: ++lists, path: `memory/${lists}`, bytes: 0 }] })
    expect(await errorOf(over(log, snapshots))).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD' })
    expect(lists).toBe(10)
  })
})

test('a manager works over a journal and snapshots written by hand', async () => {
  const log = new MemoryLog()
  const snapshots = new MemorySnapshots<string[]>()
  const manager = await over(log, snapshots)
  await manager.applyAll(['a', 'b'])
  expect(await manager.createSnapshot()).toMatchObject({ sequence: 2, path: 'memory/2' })
  expect(await manager.compact()).toMatchObject({ sequence: 2, firstSequence: 3, damagedSnapshots: [] })
  await manager.apply('c')
  snapshots.texts.set(2, 'damaged')
  const { firstSequence, damagedSnapshots } = await manager.compact()
  expect([firstSequence, damagedSnapshots.map(({ code }) => code)]).toEqual([4, ['ERR_MINISTORE_SNAPSHOT_DAMAGED']])
  await manager.close()
  const again = await over(log, snapshots)
  expect([again.state, again.recovery.snapshotSequence]).toEqual([['a', 'b', 'c'], 3])
  expect(await again.stateAt(3)).toEqual(['a', 'b', 'c'])
  await again.close()
})

test('a manager over a SnapStore keeps the type of its states', async () => {
  const fileSystem = new SimulatedFileSystem()
  const snapshots: Snapshots<string[]> = new SnapStore<string[]>('/snapshots', { fileSystem })
  const manager = await over(new MemoryLog(), snapshots)
  await manager.apply('a')
  expect((await manager.createSnapshot()).path).toBe('/snapshots/snapshot-1.json')
  await manager.close()
})
