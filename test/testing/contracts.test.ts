import { setTimeout as sleep } from 'node:timers/promises'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { type AppendOptions, type Journal, type JournalEntry, type JournalRange, MiniStore, MiniStoreError, PreparedRecord } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import {
  type ContractRecord, type ContractState, type ContractTest, journalContract, type JournalSubject, SimulatedFileSystem, snapshotsContract,
  type SnapshotsSubject,
} from '../../src/testing/index.ts'
import { MemoryJournal, MemoryLog, MemorySnapshots } from '../support/memory-log.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** A `MiniStore` on this machine, or on a simulated disk. */
async function storeSubject(fileSystem?: SimulatedFileSystem): Promise<JournalSubject> {
  const path = fileSystem === undefined ? join(await temporaryDirectory(), 'journal.jsonl') : '/log/journal.jsonl'
  const open = (): Promise<MiniStore<ContractRecord>> => MiniStore.open<ContractRecord>(path, { fileSystem, maxBytesPerSegment: 50_000 })
  return {
    journal: await open(),
    reopen: open,
    reader: () => MiniStore.read<ContractRecord>(path, { fileSystem, pollIntervalMs: 5 }),
  }
}

describe.each<[string, () => Promise<JournalSubject>]>([
  ['MiniStore on this machine', () => storeSubject()],
  ['MiniStore on a simulated disk', () => storeSubject(new SimulatedFileSystem())],
  ['a journal in memory', () => Promise.resolve(memorySubject({}))],
])('%s keeps the contract of a journal:', (_, make) => {
  test.each(journalContract(make).map(({ name, run }) => [name, run] as const))('%s', async (_name, run) => {
    await expect(run()).resolves.toBeUndefined()
  })
})

describe.each<[string, () => Promise<SnapshotsSubject>]>([
  ['SnapStore on this machine', () => snapshotsSubject()],
  ['SnapStore on a simulated disk', () => snapshotsSubject(new SimulatedFileSystem())],
  ['SnapStore that keeps one', () => snapshotsSubject(new SimulatedFileSystem(), 1)],
  ['SnapStore that keeps three', () => snapshotsSubject(new SimulatedFileSystem(), 3)],
  ['snapshots in memory', () => Promise.resolve(memorySnapshotsSubject({}))],
])('%s keeps the contract of snapshots:', (_, make) => {
  test.each(snapshotsContract(make).map(({ name, run }) => [name, run] as const))('%s', async (_name, run) => {
    await expect(run()).resolves.toBeUndefined()
  })
})

async function snapshotsSubject(fileSystem?: SimulatedFileSystem, keep = 2): Promise<SnapshotsSubject> {
  const directory = fileSystem === undefined ? await temporaryDirectory() : '/snapshots'
  const open = (): SnapStore<ContractState> => new SnapStore<ContractState>(directory, { fileSystem, keep })
  return {
    snapshots: open(),
    reopen: () => Promise.resolve(open()),
    damage: async (sequence) => {
      const path = join(directory, `snapshot-${sequence}.json`)
      const bytes = fileSystem?.readFile(path) ?? (await readFile(path))
      const at = bytes.indexOf('"state"') + 12
      bytes[at] = (bytes[at] ?? 0) ^ 1
      if (fileSystem === undefined) await writeFile(path, bytes)
      else fileSystem.writeFile(path, bytes)
    },
  }
}

type Memory = MemoryJournal<ContractRecord>

/** What a defective journal does in place of the one in memory. */
interface JournalDefect {
  /** Changes an opened journal. */
  readonly open?: (journal: Memory) => object
  /** Changes the log before it is opened again. */
  readonly beforeReopen?: (log: MemoryLog) => void
  readonly newLog?: () => MemoryLog
}

function memorySubject(defect: JournalDefect): JournalSubject {
  const log = defect.newLog?.() ?? new MemoryLog()
  const open = (): Journal<ContractRecord> => {
    const journal = new MemoryJournal<ContractRecord>(log)
    const changes = defect.open?.(journal) ?? {}
    return Object.defineProperties(journal, Object.getOwnPropertyDescriptors(changes))
  }
  return {
    journal: open(),
    reopen: async () => {
      defect.beforeReopen?.(log)
      return open()
    },
    takeOver: () => Promise.resolve(open()),
    reader: () => {
      const journal = new MemoryJournal<ContractRecord>(log)
      log.epoch -= 1
      const changes = defect.open?.(journal) ?? {}
      return Promise.resolve(Object.defineProperties(journal, Object.getOwnPropertyDescriptors(changes)))
    },
  }
}

const entriesOf = (journal: Memory, change: (range: JournalRange) => JournalRange): object => ({
  entries: (range: JournalRange = {}) => MemoryJournal.prototype.entries.call(journal, change(range)),
})
const appendOf = (
  append: (text: string, options: AppendOptions | undefined) => Promise<number> | number,
): object => ({ append: async (record: ContractRecord, options?: AppendOptions) => append(JSON.stringify(record), options) })
const all = (records: Iterable<ContractRecord | PreparedRecord>): string[] =>
  Array.from(records, (record) => (record instanceof PreparedRecord ? record.text : JSON.stringify(record)))

/** Small deliberate defects, each with the test that must notice it. */
const journalDefects: Readonly<Record<string, [JournalDefect, caughtBy: string]>> = {
  'counts from 0': [
    { open: (journal) => ({ append: async (record: ContractRecord) => (await MemoryJournal.prototype.append.call(journal, record)) - 1 }) },
    'a new log is empty, and its first record is number 1',
  ],
  'shows the last number late': [
    { open: (journal) => ({ get lastSequence() { return Math.max(0, journal.log.last - 1) } }) },
    'append resolves with 1, 2, 3, and entries give the records with these numbers',
  ],
  'writes the newest waiting record first': [
    {
      open: (journal) => {
        const waiting: string[] = []
        return appendOf(async (text) => {
          waiting.push(text)
          await sleep(0)
          return journal.write([waiting.pop() as string])
        })
      },
    },
    'overlapping appends are written in call order, without gaps',
  ],
  'loses the last record when it is opened again': [
    { beforeReopen: (log) => void log.texts.pop() },
    'acknowledged records are there after reopening, and the numbers continue',
  ],
  'drops NUL': [
    { open: (journal) => appendOf((text, options) => journal.inTurn(() => journal.write([text.replaceAll('\\u0000', '')], options))) },
    'texts of any characters and lengths read back as they were',
  ],
  'serializes when the turn comes': [
    { open: (journal) => ({ append: (record: ContractRecord, options?: AppendOptions) => journal.inTurn(() => journal.write([JSON.stringify(record)], options)) }) },
    'a record is taken as it is when append is called',
  ],
  'gives the same objects to all readers': [
    {
      open: (journal) => {
        const known = new Map<string, ContractRecord>()
        const decode = (text: string): ContractRecord => {
          if (!known.has(text)) known.set(text, JSON.parse(text) as ContractRecord)
          return known.get(text) as ContractRecord
        }
        return { entries: (range?: JournalRange) => journal.stream(range, decode) }
      },
    },
    'each read gives records of its own',
  ],
  'gives a refused record a number': [
    {
      open: (journal) => ({
        append: async (record: ContractRecord, options?: AppendOptions) => {
          try {
            return await MemoryJournal.prototype.append.call(journal, record, options)
          } catch (error) {
            if (!(error instanceof MiniStoreError)) journal.write(['null'])
            throw error
          }
        },
      }),
    },
    'a record that cannot be serialized is refused alone, and takes no number',
  ],
  'ignores expectedSequence': [
    { open: (journal) => appendOf((text) => journal.inTurn(() => journal.write([text]))) },
    'expectedSequence lets an append pass only if the log is there; a refused one writes nothing',
  ],
  'rejects a conflict and writes all the same': [
    {
      open: (journal) =>
        appendOf(async (text, options) => {
          try {
            return await journal.inTurn(() => journal.write([text], options))
          } catch (error) {
            journal.write([text])
            throw error
          }
        }),
    },
    'expectedSequence lets an append pass only if the log is there; a refused one writes nothing',
  ],
  'compares expectedSequence when it is called': [
    {
      open: (journal) =>
        appendOf((text, { expectedSequence = journal.lastSequence } = {}) => {
          if (expectedSequence !== journal.lastSequence) throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', 'elsewhere')
          return journal.inTurn(() => journal.write([text]))
        }),
    },
    'expectedSequence is compared when the turn of the call comes',
  ],
  'compares and writes in two steps': [
    {
      open: (journal) =>
        appendOf(async (text, { expectedSequence = journal.lastSequence } = {}) => {
          if (expectedSequence !== journal.lastSequence) throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', 'elsewhere')
          await sleep(0)
          return journal.inTurn(() => journal.write([text]))
        }),
    },
    'of 16 callers that expect the same number, one is written, and the others are told',
  ],
  'writes a batch backwards': [
    {
      open: (journal) => ({
        appendAll: async (records: Iterable<ContractRecord>) => {
          const texts = all(records).toReversed()
          const last = await journal.inTurn(() => journal.write(texts))
          return { first: last - texts.length + 1, last }
        },
      }),
    },
    'appendAll writes records in order, between the appends around it',
  ],
  'takes no more than 100 records of a batch': [
    {
      open: (journal) => ({
        appendAll: async (records: Iterable<ContractRecord>) => {
          const texts = all(records)
          const last = await journal.inTurn(() => journal.write(texts.slice(0, 100)))
          return { first: last - texts.length + 1, last }
        },
      }),
    },
    'appendAll takes a thousand records of any iterable',
  ],
  'writes a batch record by record': [
    {
      open: (journal) => ({
        appendAll: async (records: Iterable<ContractRecord>) => {
          const first = journal.lastSequence + 1
          for (const record of records) await journal.append(record)
          return { first, last: journal.lastSequence }
        },
      }),
    },
    'appendAll writes no record if one is refused, or if the log is not at expectedSequence',
  ],
  'ignores expectedSequence of a batch': [
    { open: (journal) => ({ appendAll: (records: Iterable<ContractRecord>) => MemoryJournal.prototype.appendAll.call(journal, records) }) },
    'appendAll writes no record if one is refused, or if the log is not at expectedSequence',
  ],
  'writes a prepared record at once': [
    {
      open: (journal) => ({
        prepare: (record: ContractRecord) => {
          journal.write([JSON.stringify(record)])
          return new PreparedRecord(JSON.stringify(record))
        },
      }),
    },
    'prepare fixes a record and writes nothing; appendAll takes it beside others',
  ],
  'prepares anything': [
    {
      open: (journal) => ({
        prepare: (record: ContractRecord) => {
          try {
            return MemoryJournal.prototype.prepare.call(journal, record)
          } catch {
            return new PreparedRecord('null')
          }
        },
      }),
    },
    'prepare throws for a record that append refuses',
  ],
  'prepares every record in one buffer': [
    {
      open: () => {
        let buffer = ''
        const prepare = (record: ContractRecord): PreparedRecord => {
          buffer = JSON.stringify(record)
          return Object.defineProperty(new PreparedRecord(buffer), 'text', { get: () => buffer })
        }
        return { prepare }
      },
    },
    'a group writes concurrent appends in call order, beside those of the log, and refuses a bad record alone',
  ],
  'encodes prepared entries twice': [
    { open: (journal) => ({ preparedEntries: (range?: JournalRange) => journal.stream(range, (text) => new PreparedRecord(JSON.stringify(text))) }) },
    'preparedEntries give lines that appendAll of another log takes',
  ],
  'leaves out the end of a range': [
    { open: (journal) => entriesOf(journal, (range) => ({ ...range, to: range.to === undefined ? undefined : range.to - 1 })) },
    'entries give a range with both of its ends, and nothing beyond the log',
  ],
  'reads up to the end of the log, whenever that is': [
    {
      open: (journal) => ({
        entries: (range: JournalRange = {}) => {
          let stream: ReadableStreamDefaultReader<JournalEntry<unknown>> | undefined
          return new ReadableStream<JournalEntry<ContractRecord>>({
            pull: async (controller) => {
              stream ??= MemoryJournal.prototype.entries.call(journal, range).getReader()
              const next = await stream.read()
              if (next.done) controller.close()
              else controller.enqueue(next.value as JournalEntry<ContractRecord>)
            },
          }, { highWaterMark: 0 })
        },
      }),
    },
    'entries end with the record that was the last when they were asked for',
  ],
  'ends a follower at the end of the log': [
    { open: (journal) => entriesOf(journal, (range) => ({ ...range, follow: false })) },
    'following entries give new records once they are acknowledged, up to `to`',
  ],
  'follows for ever': [
    { open: (journal) => entriesOf(journal, (range) => (range.follow === true ? { ...range, to: undefined } : range)) },
    'following entries give new records once they are acknowledged, up to `to`',
  ],
  'does not look at the signal': [
    { open: (journal) => entriesOf(journal, (range) => ({ ...range, signal: undefined })) },
    'a signal ends following entries with its reason',
  ],
  'closes only when all readers have ended': [
    {
      open: (journal) => {
        const open = new Set<JournalRange>()
        return {
          ...entriesOf(journal, (range) => {
            if (range.follow === true && range.signal === undefined && range.to === undefined) open.add(range)
            return range
          }),
          close: () => (open.size > 0 ? new Promise(() => {}) : MemoryJournal.prototype.close.call(journal)),
        }
      },
    },
    'entries that are left early let the log close',
  ],
  'removes one record too many': [
    { open: (journal) => ({ truncateBefore: (sequence: number) => MemoryJournal.prototype.truncateBefore.call(journal, sequence + 1) }) },
    'truncateBefore removes nothing at or above the number',
  ],
  'never removes anything': [
    { open: () => ({ truncateBefore: () => Promise.resolve() }) },
    'rotate and truncateBefore can remove every record; the numbers continue',
  ],
  'begins at 1 again when all records were removed': [
    { beforeReopen: (log) => void (log.texts.length === 0 && (log.first = 1)) },
    'rotate and truncateBefore can remove every record; the numbers continue',
  ],
  'gives fewer records where some were removed': [
    { open: (journal) => entriesOf(journal, (range) => ({ ...range, from: Math.max(range.from ?? 1, journal.firstSequence) })) },
    'rotate and truncateBefore can remove every record; the numbers continue',
  ],
  'skips what was removed while it reads': [
    {
      open: (journal) => ({
        entries: (range: JournalRange = {}) => {
          let { from = journal.firstSequence } = range
          const to = range.to ?? journal.lastSequence
          return new ReadableStream<JournalEntry<ContractRecord>>({
            pull: (controller) => {
              from = Math.max(from, journal.firstSequence)
              if (from > to) return controller.close()
              controller.enqueue({ sequence: from, record: JSON.parse(journal.log.textOf(from)) as ContractRecord })
              from += 1
            },
          }, { highWaterMark: 0 })
        },
      }),
    },
    'entries give every record or fail with SEQUENCE_GONE while records are removed',
  ],
  'has another identity when it is opened again': [
    { beforeReopen: (log) => void (log.id = new MemoryLog().id) },
    'the identity is 16 hexadecimal digits, stays the same, and is that of no other log',
  ],
  'has the identity of all others': [
    { newLog: () => Object.assign(new MemoryLog(), { id: '0000000000000000' }) },
    'the identity is 16 hexadecimal digits, stays the same, and is that of no other log',
  ],
  'adopts an identity without the number': [
    { open: (journal) => ({ adopt: ({ id }: { id: string }) => MemoryJournal.prototype.adopt.call(journal, { id, firstSequence: 1 }) }) },
    'adopt gives a new log an identity and its next number, and refuses one with records',
  ],
  'adopts an identity although it has records': [
    { open: (journal) => ({ adopt: async ({ id, firstSequence }: { id: string; firstSequence: number }) => void Object.assign(journal.log, { id, first: firstSequence }) }) },
    'adopt gives a new log an identity and its next number, and refuses one with records',
  ],
  'forgets its records in refresh': [
    { open: (journal) => ({ refresh: async () => void journal.log.texts.pop() }) },
    'refresh changes nothing for the only writer',
  ],
  'looks at the log only once': [
    { open: (journal) => { const last = journal.lastSequence; return last > 0 ? {} : { get lastSequence() { return journal.log.last > 3 ? journal.log.last : last } } } },
    'a reader sees what was appended after refresh, and follows it',
  ],
  'lets an earlier writer go on': [
    { open: (journal) => ({ inTurn: async <Result>(task: () => Result) => { await Promise.resolve(); return task() }, log: journal.log }) },
    'a log that was taken over refuses every change with FENCED',
  ],
  'closes before its queue is done': [
    { open: (journal) => { let isClosed = false; return { close: async () => void (isClosed = true), write: (texts: string[]) => { if (isClosed) throw new Error('gone'); return journal.log.write(texts) } } } },
    'close waits for earlier calls and refuses later ones',
  ],
  'appends after close': [
    { open: () => ({ close: () => Promise.resolve() }) },
    'close waits for earlier calls and refuses later ones',
  ],
}

describe('the contract of a journal can be broken:', () => {
  test.each(Object.entries(journalDefects))('a journal that %s', async (_, [defect, caughtBy]) => {
    expect(await failuresOf(journalContract(() => Promise.resolve(memorySubject(defect)), { timeoutMs: 200 }))).toContain(caughtBy)
  })

  test('each of its tests notices one of these', () => {
    const caught = new Set(Object.values(journalDefects).map(([, caughtBy]) => caughtBy))
    expect(journalContract(() => Promise.resolve(memorySubject({}))).map(({ name }) => name).filter((name) => !caught.has(name))).toEqual([])
  })

  test('optional methods need not be there', async () => {
    const bare = (): Promise<JournalSubject> => {
      const log = new MemoryLog()
      log.id = undefined
      const absent = { appendAll: undefined, prepare: undefined, preparedEntries: undefined, adopt: undefined, refresh: undefined }
      const open = (): Promise<Journal<ContractRecord>> => Promise.resolve(Object.assign(new MemoryJournal<ContractRecord>(log), absent))
      return open().then((journal) => ({ journal, reopen: open }))
    }
    expect(await failuresOf(journalContract(bare))).toEqual([])
  })
})

type Texts = MemorySnapshots<ContractState>

function memorySnapshotsSubject({ open, beforeReopen }: {
  readonly open?: ((snapshots: Texts) => object) | undefined
  readonly beforeReopen?: ((snapshots: Texts) => void) | undefined
}): SnapshotsSubject {
  const texts = new Map<number, string>()
  const opened = (): Texts => {
    const snapshots = new MemorySnapshots<ContractState>(texts)
    return Object.defineProperties(snapshots, Object.getOwnPropertyDescriptors(open?.(snapshots) ?? {}))
  }
  const snapshots = opened()
  return {
    snapshots,
    reopen: () => {
      beforeReopen?.(snapshots)
      return Promise.resolve(opened())
    },
    damage: (sequence) => Promise.resolve(void texts.set(sequence, 'damaged')),
  }
}

const original = MemorySnapshots.prototype

const snapshotsDefects: Readonly<Record<string, [Parameters<typeof memorySnapshotsSubject>[0], caughtBy: string]>> = {
  'gives an empty state where there is none': [
    { open: (store) => ({ restore: async (options?: object) => (await original.restore.call(store, options)) ?? { state: {}, sequence: 0, damaged: [] } }) },
    'a new store is empty',
  ],
  'takes 0 for no number': [
    { open: (store) => ({ restore: async (options?: object) => { const found = await original.restore.call(store, options); return found?.sequence === 0 ? undefined : found } }) },
    'a snapshot restores as it was, also after reopening, and 0 is a sequence number',
  ],
  'drops NUL': [
    { open: (store) => ({ create: (state: ContractState, sequence: number) => store.put(sequence, JSON.stringify(state).replaceAll('\\u0000', '')) }) },
    'texts of any characters and lengths restore as they were',
  ],
  'keeps everything': [
    { open: (store) => ({ put: async (sequence: number, text: string) => { store.texts.set(sequence, text); return store.infoOf(sequence) } }) },
    'the newest `keep` snapshots are kept and listed, newest first',
  ],
  'lists the oldest first': [
    { open: (store) => ({ list: async () => (await original.list.call(store)).toReversed() }) },
    'the newest `keep` snapshots are kept and listed, newest first',
  ],
  'ignores atMost': [
    { open: (store) => ({ restore: () => original.restore.call(store) }) },
    'restore with atMost gives the newest snapshot that is not later',
  ],
  'leaves out the snapshot at atMost': [
    { open: (store) => ({ restore: ({ atMost = Infinity } = {}) => original.restore.call(store, { atMost: atMost - 1 }) }) },
    'restore with atMost gives the newest snapshot that is not later',
  ],
  'never replaces a snapshot': [
    { open: (store) => ({ put: async (sequence: number, text: string) => (store.texts.has(sequence) ? store.infoOf(sequence) : original.put.call(store, sequence, text)) }) },
    'a snapshot of the same sequence number is replaced',
  ],
  'keeps the object that it was given': [
    {
      open: (store) => {
        const states = new Map<number, ContractState>()
        return {
          create: (state: ContractState, sequence: number) => {
            states.set(sequence, state)
            return store.put(sequence, JSON.stringify(state))
          },
          stateOf: (sequence: number) => structuredClone(states.get(sequence)),
        }
      },
    },
    'a state is taken as it is when create settles, frozen or not',
  ],
  'gives the same object to all': [
    {
      open: (store) => {
        const known = new Map<number, unknown>()
        return {
          stateOf: (sequence: number) => {
            if (!known.has(sequence)) known.set(sequence, original.stateOf.call(store, sequence))
            return known.get(sequence)
          },
        }
      },
    },
    'each restore gives a state of its own',
  ],
  'replaces a snapshot before it has the new one': [
    {
      open: (store) => ({
        create: async (state: ContractState, sequence: number) => {
          store.texts.clear()
          return await store.put(sequence, JSON.stringify(state))
        },
      }),
    },
    'a create that fails leaves the earlier snapshots as they were',
  ],
  'shows a snapshot that is half written': [
    {
      open: (store) => ({
        create: async (state: ContractState, sequence: number) => {
          await store.put(sequence, JSON.stringify({ ...state, text: '' }))
          await sleep(3)
          return await store.put(sequence, JSON.stringify(state))
        },
      }),
    },
    'what is read during a create is a whole snapshot, never an older one than before',
  ],
  'writes later calls first': [
    { open: (store) => ({ create: async (state: ContractState, sequence: number) => { await sleep(30 - sequence * 5); return store.put(sequence, JSON.stringify(state)) } }) },
    'overlapping calls are done in call order',
  ],
  'sweeps the newest snapshot away': [
    { open: (store) => ({ sweep: async () => void store.texts.delete(store.sequences[0] ?? 0) }) },
    'verify accepts what is whole, and sweep removes no snapshot',
  ],
  'finds damage everywhere': [
    { open: () => ({ verify: () => Promise.reject(new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', 'damaged')) }) },
    'verify accepts what is whole, and sweep removes no snapshot',
  ],
  'gives what is damaged': [
    { open: () => ({ isWhole: () => true, stateOf: () => ({ at: 2, text: '', list: [] }) }) },
    'a damaged snapshot is skipped, listed, and never given',
  ],
  'takes damage for nothing': [
    { open: (store) => ({ restore: (options?: object) => original.restore.call(store, options).catch(() => undefined) }) },
    'a damaged snapshot is skipped, listed, and never given',
  ],
  'finds no damage': [
    { open: () => ({ verify: () => Promise.resolve() }) },
    'a damaged snapshot is skipped, listed, and never given',
  ],
  'counts damaged snapshots': [
    {
      open: (store) => ({
        put: async (sequence: number, text: string) => {
          store.texts.set(sequence, text)
          for (const old of store.sequences.slice(store.keep)) store.texts.delete(old)
          return store.infoOf(sequence)
        },
      }),
    },
    'a damaged snapshot does not count: whole ones are kept in its place',
  ],
}

describe('the contract of snapshots can be broken:', () => {
  test.each(Object.entries(snapshotsDefects))('a store that %s', async (_, [defect, caughtBy]) => {
    expect(await failuresOf(snapshotsContract(() => Promise.resolve(memorySnapshotsSubject(defect)), { timeoutMs: 200 }))).toContain(caughtBy)
  })

  test('each of its tests notices one of these', () => {
    const caught = new Set(Object.values(snapshotsDefects).map(([, caughtBy]) => caughtBy))
    expect(snapshotsContract(() => snapshotsSubject()).map(({ name }) => name).filter((name) => !caught.has(name))).toEqual([])
  })

  test('a create that fails ends the test that reads meanwhile', async () => {
    let restores = 0
    const open = (store: Texts): object => ({
      create: (state: ContractState, sequence: number) => (sequence === 3 ? Promise.reject(new Error('broken')) : original.create.call(store, state, sequence)),
      restore: (options?: object) => {
        restores++
        return original.restore.call(store, options)
      },
    })
    const during = snapshotsContract(() => Promise.resolve(memorySnapshotsSubject({ open }))).find(({ name }) => name.startsWith('what is read during'))
    await expect(during?.run()).rejects.toThrow('broken')
    // Ten turns of a loop that goes on would restore again.
    const atMost = restores + 1
    for (let turn = 0; turn < 10; turn++) await sleep(2)
    expect(restores).toBeLessThanOrEqual(atMost)
  })

  test('optional methods need not be there', async () => {
    const bare = async (): Promise<SnapshotsSubject> => {
      const texts = new Map<number, string>()
      const open = async (): Promise<Texts> => Object.assign(new MemorySnapshots<ContractState>(texts), { verify: undefined })
      return { snapshots: await open(), reopen: open }
    }
    expect(await failuresOf(snapshotsContract(bare))).toEqual([])
  })
})

test('a contract refuses options that are none', () => {
  const make = (): never => expect.unreachable()
  expect(() => journalContract(make, { timeoutMs: 0 })).toThrow(RangeError)
  expect(() => snapshotsContract(make, { timeout: 5 } as never)).toThrow('did you mean `timeoutMs`?')
})

/** The names of the tests that fail. */
async function failuresOf(tests: readonly ContractTest[]): Promise<string[]> {
  const outcomes = await Promise.allSettled(tests.map(({ run }) => run()))
  return tests.flatMap(({ name }, index) => (outcomes[index]?.status === 'rejected' ? [name] : []))
}
