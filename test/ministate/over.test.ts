import { describe, expect, test, vi } from 'vitest'

import type { JournalEntry } from '../../src/index.ts'
import { MiniStore } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { type Journal, type JournalRange, StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect } from '../support/consume.ts'
import { errorOf } from './support.ts'

const definition = {
  initialState: () => [] as string[],
  mutator: (state: string[], word: string): void => void state.push(word),
}

/** Another log, in memory. It drops records at once, without segments. */
class ListJournal implements Journal<string> {
  firstSequence = 1
  readonly records: string[] = []
  isClosed = false

  get lastSequence(): number {
    return this.firstSequence + this.records.length - 1
  }

  append(record: string): Promise<number> {
    this.records.push(record)
    return Promise.resolve(this.lastSequence)
  }

  entries(range: JournalRange = {}): ReadableStream<JournalEntry<string>> {
    const { from = this.firstSequence, to = this.lastSequence } = range
    const entries = this.records.map((record, index) => ({ sequence: this.firstSequence + index, record }))
    return ReadableStream.from(entries.filter(({ sequence }) => sequence >= from && sequence <= to))
  }

  rotate(): Promise<void> {
    return Promise.resolve()
  }

  truncateBefore(sequence: number): Promise<void> {
    this.records.splice(0, sequence - this.firstSequence)
    this.firstSequence = sequence
    return Promise.resolve()
  }

  close(): Promise<void> {
    this.isClosed = true
    return Promise.resolve()
  }
}

function newSnapshots(fileSystem: SimulatedFileSystem = new SimulatedFileSystem()): SnapStore<string[]> {
  return new SnapStore<string[]>('/snapshots', { fileSystem, keep: 1 })
}

describe('a manager over another log', () => {
  test('does everything that a manager over files does', async () => {
    const journal = new ListJournal()
    const snapshots = newSnapshots()
    const manager = await StateManager.over(journal, snapshots, definition)
    expect(manager.recovery.journal).toBeUndefined()
    expect(await Promise.all(['a', 'b', 'c'].map((word) => manager.apply(word)))).toEqual([1, 2, 3])
    expect(await manager.compact()).toMatchObject({ sequence: 3, firstSequence: 4 })
    expect(journal.records).toEqual([])
    await manager.apply('d')
    expect(await manager.stateAt(3)).toEqual(['a', 'b', 'c'])
    expect(await collect(manager.changes())).toEqual([{ sequence: 4, record: 'd' }])
    const again = await StateManager.over(journal, snapshots, definition)
    expect(again.state).toEqual(['a', 'b', 'c', 'd'])
    expect(again.recovery).toMatchObject({ snapshotSequence: 3, replayed: 1 })
    await again.close()
    expect(journal.isClosed).toBe(true)
  })

  test('creates its own snapshots on request', async () => {
    const snapshots = newSnapshots()
    const manager = await StateManager.over(new ListJournal(), snapshots, {
      ...definition,
      snapshots: { everyMutations: 2 },
    })
    for (const word of ['a', 'b', 'c']) await manager.apply(word)
    expect((await snapshots.list()).map(({ sequence }) => sequence)).toEqual([2])
    await manager.close()
  })

  test('ends when another writer appends to the log; the state stays unchanged', async () => {
    const journal = new ListJournal()
    const manager = await StateManager.over(journal, newSnapshots(), definition)
    await manager.apply('a')
    await journal.append('from elsewhere')
    const error = await errorOf(manager.apply('b'))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN', sequence: 3 })
    expect(error.message).toMatch(/\b2\b.*\b3\b.*something else/)
    expect(await errorOf(manager.apply('c'))).toMatchObject({ code: 'ERR_MINISTORE_POISONED', cause: error })
    expect(manager.state).toEqual(['a'])
    await manager.close()
  })

  test.each([
    ['leaves one out', (entries: Array<JournalEntry<string>>) => entries.filter(({ sequence }) => sequence !== 2), 2],
    ['ends too early', (entries: Array<JournalEntry<string>>) => entries.slice(0, 2), 3],
  ])('that %s is refused, and stays open', async (_how, distort, sequence) => {
    const journal = new ListJournal()
    for (const word of ['a', 'b', 'c']) await journal.append(word)
    const entries = await collect(journal.entries())
    vi.spyOn(journal, 'entries').mockReturnValue(ReadableStream.from(distort(entries)))
    const error = await errorOf(StateManager.over(journal, newSnapshots(), definition))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence })
    expect(journal.isClosed).toBe(false)
  })

  test('has its own codec and schema', async () => {
    const fileSystem = new SimulatedFileSystem()
    const codec = { encode: (word: string) => `<${word}>`, decode: (line: string) => line.slice(1, -1) }
    const journal = await MiniStore.open<string>('/words.jsonl', { fileSystem, codec })
    const manager = await StateManager.over(journal, newSnapshots(fileSystem), { ...definition, codec })
    await manager.apply('a')
    expect(fileSystem.readFile('/words.jsonl').toString()).toMatch(/\n<a>\n$/)
    expect(manager.state).toEqual(['a'])
    await manager.close()
  })
})
