import { groupCommit } from '../journal/group-commit.ts'
import type { Journal, JournalEntry, JournalRange } from '../journal/journal.ts'
import { holds, type Patience, same } from './contract.ts'
import type { ContractRecord, JournalSubject } from './journal-contract.ts'

/** What a test works on. */
export interface JournalScene {
  readonly subject: JournalSubject
  readonly journal: Journal<ContractRecord>
  readonly patience: Patience
  /** Notes a journal that the test opens, to close it at the end. */
  readonly opened: (call: Promise<Journal<ContractRecord>>) => Promise<Journal<ContractRecord>>
  /** Closes all journals and opens the log again. */
  readonly reopened: () => Promise<Journal<ContractRecord>>
  /** Opens another new log. */
  readonly another: () => Promise<Journal<ContractRecord>>
}

const texts = [
  'plain', '', ' spaces ', 'line\nfeed\r\n', '"quotes" \\ and \u0000 and \u001f', 'äöü €', '😀 👩‍👩‍👧', '\u2028\u2029\ufeff', '{"n":1}',
  'x'.repeat(100_000),
]

/** A record that nothing can serialize. */
const unwritable = Object.defineProperty({ n: 0 }, 'n', {
  enumerable: true,
  get: () => {
    throw new Error('a record that cannot be read')
  },
})

/** The tests of the contract of a journal, by their names. */
export const journalClaims: Readonly<Record<string, (scene: JournalScene) => Promise<void>>> = {
  'a new log is empty, and its first record is number 1': async ({ journal, patience, reopened }) => {
    same('the range', rangeOf(journal), [1, 0])
    same('the entries', await read(patience, journal), [])
    const again = await reopened()
    same('the range after reopening', rangeOf(again), [1, 0])
    same('the number', await again.append({ n: 1 }), 1)
  },

  'append resolves with 1, 2, 3, and entries give the records with these numbers': async ({ journal, patience }) => {
    for (const n of [1, 2, 3]) {
      same('the number', await patience.until('append', journal.append({ n })), n)
      same('the range', rangeOf(journal), [1, n])
    }
    same('the entries', await read(patience, journal), entriesOf(1, 3))
  },

  'overlapping appends are written in call order, without gaps': async ({ journal, patience }) => {
    const appends = Array.from({ length: 50 }, (_, index) => journal.append({ n: index + 1 }))
    same('the numbers', await patience.until('50 appends', Promise.all(appends)), numbers(1, 50))
    same('the entries', await read(patience, journal), entriesOf(1, 50))
  },

  'acknowledged records are there after reopening, and the numbers continue': async ({ journal, patience, reopened }) => {
    for (const n of [1, 2, 3]) await journal.append({ n })
    const again = await reopened()
    same('the range', rangeOf(again), [1, 3])
    same('the number', await again.append({ n: 4 }), 4)
    same('the entries', await read(patience, again), entriesOf(1, 4))
    same('the entries after reopening again', await read(patience, await reopened()), entriesOf(1, 4))
  },

  'texts of any characters and lengths read back as they were': async ({ journal, patience, reopened }) => {
    const records = texts.map((text, n) => ({ n, text }))
    for (const record of records) await patience.until('append', journal.append(record))
    same('the records', (await read(patience, journal)).map(({ record }) => record), records)
    same('the records after reopening', (await read(patience, await reopened())).map(({ record }) => record), records)
  },

  'a record is taken as it is when append is called': async ({ journal, patience }) => {
    const record = { n: 1, text: 'as given' }
    const appended = journal.append(record)
    record.text = 'changed'
    await patience.until('append', appended)
    same('the entries', await read(patience, journal), [{ sequence: 1, record: { n: 1, text: 'as given' } }])
  },

  'each read gives records of its own': async ({ journal, patience }) => {
    await journal.append({ n: 1 })
    for (const { record } of await read(patience, journal)) (record as { n: number }).n = 99
    same('the entries', await read(patience, journal), entriesOf(1, 1))
  },

  'a record that cannot be serialized is refused alone, and takes no number': async ({ journal, patience, reopened }) => {
    await journal.append({ n: 1 })
    await patience.rejected('append of a bad record', Promise.resolve().then(() => journal.append(unwritable)))
    same('the range', rangeOf(journal), [1, 1])
    same('the number', await journal.append({ n: 2 }), 2)
    same('the entries', await read(patience, await reopened()), entriesOf(1, 2))
  },

  'expectedSequence lets an append pass only if the log is there; a refused one writes nothing': async ({ journal, patience, reopened }) => {
    same('the first number', await journal.append({ n: 1 }, { expectedSequence: 0 }), 1)
    for (const expectedSequence of [0, 2]) {
      await patience.refused(
        `append at ${expectedSequence} instead of 1`, journal.append({ n: 9 }, { expectedSequence }), 'ERR_MINISTORE_SEQUENCE_CONFLICT',
      )
    }
    same('the range', rangeOf(journal), [1, 1])
    same('the second number', await journal.append({ n: 2 }, { expectedSequence: 1 }), 2)
    same('the number without a condition', await journal.append({ n: 3 }, { expectedSequence: undefined }), 3)
    same('the entries', await read(patience, await reopened()), entriesOf(1, 3))
  },

  'expectedSequence is compared when the turn of the call comes': async ({ journal, patience }) => {
    const conditions = [undefined, 1, 1, 2]
    const appends = conditions.map((expectedSequence, index) => journal.append({ n: index }, { expectedSequence }))
    const outcomes = await patience.until('4 appends', Promise.allSettled(appends))
    same('the outcomes', outcomes.map(({ status }) => status), ['fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
    same('the records', (await read(patience, journal)).map(({ record }) => record.n), [0, 1, 3])
  },

  'of 16 callers that expect the same number, one is written, and the others are told': async ({ journal, patience }) => {
    const winners: number[] = []
    for (let expectedSequence = 0; expectedSequence < 20; expectedSequence++) {
      const appends = Array.from({ length: 16 }, (_, n) => journal.append({ n }, { expectedSequence }))
      const outcomes = await patience.until('16 appends', Promise.allSettled(appends))
      const won = outcomes.flatMap(({ status }, n) => (status === 'fulfilled' ? [n] : []))
      holds(won.length === 1, `${won.length} callers have written number ${expectedSequence + 1}`)
      winners.push(...won)
    }
    same('the records', (await read(patience, journal)).map(({ record }) => record.n), winners)
  },

  'appendAll writes records in order, between the appends around it': async ({ journal, patience, reopened }) => {
    if (journal.appendAll === undefined) return
    const calls = [journal.append({ n: 1 }), journal.appendAll([2, 3, 4].map((n) => ({ n }))), journal.append({ n: 5 })] as const
    same('the numbers', await patience.until('append and appendAll', Promise.all(calls)), [1, { first: 2, last: 4 }, 5])
    same('the range of no records', await journal.appendAll([]), { first: 6, last: 5 })
    same('the entries', await read(patience, journal), entriesOf(1, 5))
    same('the entries after reopening', await read(patience, await reopened()), entriesOf(1, 5))
  },

  'appendAll takes a thousand records of any iterable': async ({ journal, patience }) => {
    if (journal.appendAll === undefined) return
    const records = new Set(numbers(1, 1000).map((n) => ({ n })))
    same('the range', await patience.until('appendAll', journal.appendAll(records)), { first: 1, last: 1000 })
    same('the entries', await read(patience, journal), entriesOf(1, 1000))
  },

  'appendAll writes no record if one is refused, or if the log is not at expectedSequence': async ({ journal, patience, reopened }) => {
    if (journal.appendAll === undefined) return
    const appendAll = journal.appendAll.bind(journal)
    await journal.append({ n: 1 })
    await patience.rejected('appendAll with a bad record', Promise.resolve().then(() => appendAll([{ n: 2 }, unwritable, { n: 3 }])))
    for (const records of [[{ n: 2 }, { n: 3 }], []]) {
      const call = appendAll(records, { expectedSequence: 0 })
      await patience.refused('appendAll at 0 instead of 1', call, 'ERR_MINISTORE_SEQUENCE_CONFLICT')
    }
    same('the range', rangeOf(journal), [1, 1])
    same('the range of the next', await appendAll([{ n: 2 }, { n: 3 }], { expectedSequence: 1 }), { first: 2, last: 3 })
    same('the entries', await read(patience, await reopened()), entriesOf(1, 3))
  },

  'prepare fixes a record and writes nothing; appendAll takes it beside others': async ({ journal, patience, reopened }) => {
    const appendAll = journal.appendAll?.bind(journal)
    const prepare = journal.prepare?.bind(journal)
    if (appendAll === undefined || prepare === undefined) return
    const record = { n: 1, text: 'as given' }
    const prepared = prepare(record)
    record.text = 'changed'
    same('the range', rangeOf(journal), [1, 0])
    same('the range of both', await appendAll([prepared, { n: 2 }]), { first: 1, last: 2 })
    const expected = [{ n: 1, text: 'as given' }, { n: 2 }]
    same('the records', (await read(patience, journal)).map((entry) => entry.record), expected)
    same('the records after reopening', (await read(patience, await reopened())).map((entry) => entry.record), expected)
  },

  'prepare throws for a record that append refuses': async ({ journal }) => {
    if (journal.prepare === undefined) return
    let hasThrown = false
    try {
      journal.prepare(unwritable)
    } catch {
      hasThrown = true
    }
    holds(hasThrown, 'prepare did not throw')
  },

  'a group writes concurrent appends in call order, beside those of the log, and refuses a bad record alone': async ({ journal, patience, reopened }) => {
    if (journal.appendAll === undefined || journal.prepare === undefined) return
    const group = groupCommit(journal, { maxRecords: 8 })
    const bad = patience.rejected('append of a bad record', group.append(unwritable))
    const appends = numbers(1, 30).map((n) => group.append({ n }))
    const direct: number[] = []
    for (let n = 0; n < 8; n++) direct.push(await patience.until('an append of the log', journal.append({ n: 0 })))
    const sequences = await patience.until('30 appends', Promise.all(appends))
    await bad
    await patience.until('close of the group', group.close())
    same('the numbers', sequences, numbers(1, 38).filter((n) => !direct.includes(n)))
    const expected = numbers(1, 38).map((sequence) => ({ sequence, record: { n: sequences.indexOf(sequence) + 1 } }))
    same('the entries after reopening', await read(patience, await reopened()), expected)
  },

  'preparedEntries give lines that appendAll of another log takes': async ({ journal, patience, another }) => {
    const other = await another()
    if (journal.preparedEntries === undefined || other.appendAll === undefined) return
    const records = texts.map((text, n) => ({ n, text }))
    for (const record of records) await journal.append(record)
    const lines = await patience.until('preparedEntries', collect(journal.preparedEntries({ from: 2 })))
    same('the numbers', lines.map(({ sequence }) => sequence), numbers(2, records.length))
    await patience.until('appendAll', other.appendAll(lines.map(({ record }) => record)))
    same('the copied records', (await read(patience, other)).map(({ record }) => record), records.slice(1))
  },

  'entries give a range with both of its ends, and nothing beyond the log': async ({ journal, patience }) => {
    for (const n of numbers(1, 9)) await journal.append({ n })
    const ranges: ReadonlyArray<readonly [JournalRange, number, number]> = [
      [{ from: 3, to: 5 }, 3, 5], [{ from: 3 }, 3, 9], [{ to: 2 }, 1, 2], [{ from: 9, to: 9 }, 9, 9], [{ from: 8, to: 99 }, 8, 9],
      [{ from: 10 }, 10, 9], [{ from: 50, to: 60 }, 50, 49], [{ from: undefined, to: undefined, follow: false }, 1, 9],
    ]
    for (const [range, first, last] of ranges) {
      same(`the entries of ${JSON.stringify(range)}`, await read(patience, journal, range), entriesOf(first, last))
    }
  },

  'entries end with the record that was the last when they were asked for': async ({ journal, patience }) => {
    await journal.append({ n: 1 })
    const entries = journal.entries()
    await journal.append({ n: 2 })
    same('the entries', await patience.until('entries', collect(entries)), entriesOf(1, 1))
  },

  'following entries give new records once they are acknowledged, up to `to`': async ({ journal, patience }) => {
    await journal.append({ n: 1 })
    const acknowledged = { last: 1 }
    const followed: Array<JournalEntry<ContractRecord>> = []
    const follower = patience.started('the follower', async () => {
      for await (const entry of journal.entries({ from: 1, to: 6, follow: true })) {
        holds(entry.sequence <= acknowledged.last || journal.lastSequence >= entry.sequence, `Number ${entry.sequence} came too early`)
        followed.push(entry)
      }
    })
    const ahead = patience.started('a follower that begins ahead', () => collect(journal.entries({ from: 4, to: 5, follow: true })))
    for (const n of numbers(2, 7)) acknowledged.last = await journal.append({ n })
    await follower
    same('the followed entries', followed, entriesOf(1, 6))
    same('the entries from 4 on', await ahead, entriesOf(4, 5))
  },

  'a signal ends following entries with its reason': async ({ journal, patience }) => {
    await journal.append({ n: 1 })
    const stop = new AbortController()
    const reason = new Error('enough')
    const reader = journal.entries({ follow: true, signal: stop.signal }).getReader()
    same('the first entry', (await patience.until('the first entry', reader.read())).value, { sequence: 1, record: { n: 1 } })
    const next = reader.read()
    stop.abort(reason)
    const error = await patience.rejected('a read after the abort', next)
    holds(error === reason, `Expected the reason of the signal, got ${String(error)}`)
  },

  'entries that are left early let the log close': async ({ journal, patience }) => {
    for (const n of numbers(1, 9)) await journal.append({ n })
    for (const follow of [false, true]) {
      for await (const { sequence } of journal.entries({ follow })) if (sequence === 2) break
    }
    const waiting = journal.entries({ from: 10, follow: true }).getReader()
    const next = waiting.read()
    await patience.until('cancel of entries that wait', waiting.cancel())
    same('the waiting read', await patience.until('the waiting read', next), { done: true, value: undefined })
    await patience.until('close', journal.close())
  },

  'truncateBefore removes nothing at or above the number': async ({ journal, patience, reopened }) => {
    for (const n of numbers(1, 9)) await journal.append({ n })
    await journal.rotate?.()
    for (const n of numbers(10, 12)) await journal.append({ n })
    await patience.until('truncateBefore', journal.truncateBefore(6))
    const check = async (log: Journal<ContractRecord>): Promise<void> => {
      const { firstSequence: first } = log
      holds(first >= 1 && first <= 6, `Expected a first number from 1 to 6, got ${first}`)
      same('the last number', log.lastSequence, 12)
      same('the entries', await read(patience, log), entriesOf(first, 12))
      if (first > 1) await gone(patience, log, { from: 1 })
    }
    await check(journal)
    await check(await reopened())
  },

  'rotate and truncateBefore can remove every record; the numbers continue': async ({ journal, patience, reopened }) => {
    for (const n of numbers(1, 5)) await journal.append({ n })
    await journal.rotate?.()
    await journal.rotate?.()
    await patience.until('truncateBefore', journal.truncateBefore(6))
    same('the range', rangeOf(journal), [6, 5])
    same('the entries', await read(patience, journal), [])
    await gone(patience, journal, { from: 1 })
    await gone(patience, journal, { from: 5, follow: true })
    const again = await reopened()
    same('the range after reopening', rangeOf(again), [6, 5])
    same('the number', await again.append({ n: 6 }, { expectedSequence: 5 }), 6)
    same('the entries after reopening', await read(patience, again), entriesOf(6, 6))
  },

  'entries give every record or fail with SEQUENCE_GONE while records are removed': async ({ journal, patience }) => {
    for (let n = 1; n <= 300; n++) {
      await journal.append({ n, text: 'x'.repeat(2000) })
      if (n % 50 === 0) await journal.rotate?.()
    }
    const reader = journal.entries().getReader()
    same('the first number', (await patience.until('the first entry', reader.read())).value?.sequence, 1)
    await patience.until('truncateBefore', journal.truncateBefore(290))
    let last = 1
    const rest = (async () => {
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        holds(next.value.sequence === last + 1, `Number ${next.value.sequence} follows ${last}`)
        last += 1
      }
      holds(last === 300, `The entries end with number ${last}`)
    })()
    const error = await patience.until('the entries', rest.then(() => undefined, (reason: unknown) => ({ reason })))
    if (error !== undefined) await patience.refused('reading on', Promise.reject(error.reason), 'ERR_MINISTORE_SEQUENCE_GONE')
  },

  'the identity is 16 hexadecimal digits, stays the same, and is that of no other log': async ({ journal, reopened, another }) => {
    const { id } = journal
    const { id: otherId } = await another()
    await journal.append({ n: 1 })
    const again = await reopened()
    same('the identity after reopening', again.id, id)
    if (id === undefined) return
    holds(/^[0-9a-f]{16}$/.test(id), `Expected 16 hexadecimal digits, got ${id}`)
    holds(id !== otherId, `Two logs have the identity ${id}`)
  },

  'adopt gives a new log an identity and its next number, and refuses one with records': async ({ journal, patience, reopened }) => {
    if (journal.adopt === undefined) return
    const id = '0123456789abcdef'
    await patience.until('adopt', journal.adopt({ id, firstSequence: 100 }))
    same('identity and range', [journal.id, ...rangeOf(journal)], [id, 100, 99])
    const again = await reopened()
    same('identity and range after reopening', [again.id, ...rangeOf(again)], [id, 100, 99])
    same('the number', await again.append({ n: 100 }), 100)
    await patience.until('adopt with the same identity', again.adopt?.({ id, firstSequence: 100 }) ?? Promise.resolve())
    const foreign = again.adopt?.({ id: 'ffffffffffffffff', firstSequence: 1 }) ?? Promise.resolve()
    await patience.refused('adopt with records', foreign, 'ERR_MINISTORE_FOREIGN_JOURNAL')
    same('identity and range at the end', [again.id, ...rangeOf(again)], [id, 100, 100])
    same('the entries', await read(patience, again), entriesOf(100, 100))
  },

  'refresh changes nothing for the only writer': async ({ journal, patience }) => {
    if (journal.refresh === undefined) return
    for (const n of numbers(1, 3)) await journal.append({ n })
    await patience.until('refresh', journal.refresh())
    same('the range', rangeOf(journal), [1, 3])
    same('the number', await journal.append({ n: 4 }), 4)
  },

  'a reader sees what was appended after refresh, and follows it': async ({ subject, journal, patience }) => {
    if (subject.reader === undefined) return
    const reader = await patience.until('opening a reader', subject.reader())
    for (const n of numbers(1, 3)) await journal.append({ n })
    await patience.until('refresh', reader.refresh?.() ?? Promise.resolve())
    same('the range', rangeOf(reader), [1, 3])
    same('the entries', await read(patience, reader), entriesOf(1, 3))
    const followed = patience.started('a follower', () => collect(reader.entries({ to: 5, follow: true })))
    for (const n of numbers(4, 5)) await journal.append({ n })
    same('the followed entries', await followed, entriesOf(1, 5))
    await patience.until('close of the reader', reader.close())
  },

  'a log that was taken over refuses every change with FENCED': async ({ subject, journal, patience, opened }) => {
    if (subject.takeOver === undefined) return
    for (const n of numbers(1, 3)) await journal.append({ n })
    const successor = await opened(subject.takeOver())
    same('the range of the successor', rangeOf(successor), [1, 3])
    for (const n of [8, 9]) await patience.refused('append', journal.append({ n }), 'ERR_MINISTORE_FENCED')
    if (journal.appendAll !== undefined) {
      await patience.refused('appendAll', journal.appendAll([{ n: 9 }]), 'ERR_MINISTORE_FENCED')
    }
    await patience.refused('truncateBefore', journal.truncateBefore(2), 'ERR_MINISTORE_FENCED')
    same('the number', await successor.append({ n: 4 }), 4)
    await patience.refused('append once more', journal.append({ n: 9 }, { expectedSequence: 3 }), 'ERR_MINISTORE_FENCED')
    same('the entries of the successor', await read(patience, successor), entriesOf(1, 4))
  },

  'close waits for earlier calls and refuses later ones': async ({ journal, patience, opened, subject }) => {
    const appends = [1, 2, 3].map((n) => journal.append({ n }))
    await patience.until('close', journal.close())
    same('the numbers', await patience.until('appends before close', Promise.all(appends)), [1, 2, 3])
    await patience.rejected('append after close', Promise.resolve().then(() => journal.append({ n: 9 })))
    await patience.until('a second close', journal.close())
    const again = await opened(subject.reopen())
    same('the entries', await read(patience, again), entriesOf(1, 3))
  },
}

function rangeOf({ firstSequence, lastSequence }: Pick<Journal<unknown>, 'firstSequence' | 'lastSequence'>): [number, number] {
  return [firstSequence, lastSequence]
}

function numbers(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}

/** The entries of records that are their own sequence numbers. */
function entriesOf(first: number, last: number): Array<JournalEntry<ContractRecord>> {
  return numbers(first, last).map((n) => ({ sequence: n, record: { n } }))
}

async function collect<T>(stream: ReadableStream<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of stream) items.push(item)
  return items
}

function read(
  patience: Patience,
  journal: Pick<Journal<ContractRecord>, 'entries'>,
  range?: JournalRange,
): Promise<Array<JournalEntry<ContractRecord>>> {
  return patience.until('entries', collect(journal.entries(range)))
}

/** Reads a range that has lost its first record. The call may throw instead of the stream. */
async function gone(patience: Patience, journal: Journal<ContractRecord>, range: JournalRange): Promise<void> {
  const call = Promise.resolve().then(() => collect(journal.entries(range)))
  await patience.refused(`reading ${JSON.stringify(range)}`, call, 'ERR_MINISTORE_SEQUENCE_GONE')
}
