import { expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { JournalModel, journalPath } from './model.ts'
import { OrderMonitor } from './order-monitor.ts'
import { OrderRules } from './order-rules.ts'

const path = '/d/j'
const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n'
const second = '// MINISTORE JOURNAL v0.3.0 seq=3 id=5c1e9a70b2f4d833 prev=00000000\n'

/** Plays operations that all succeed. */
class Play extends OrderRules {
  make(at: string, text: string): void {
    this.create(at)()
    this.add(at, 0, text)
  }

  add(at: string, position: number, text: string): void {
    this.write(at, position)(Buffer.from(text))
  }

  synced(at: string): void {
    this.sync(at)(true)
  }

  names(): void {
    this.syncDirectory('/d')()
  }

  move(from: string, to: string): void {
    this.rename(from, to)()
  }
}

/** A durable journal with two records. */
function journal(): Play {
  const play = new Play(path)
  play.begin()
  play.make(path, header)
  play.synced(path)
  play.names()
  play.add(path, header.length, '1\n2\n')
  play.synced(path)
  return play
}

/** A rotated journal: two records in the first segment, and an empty second segment. */
function rotated(): Play {
  const play = journal()
  play.make(`${path}.next`, second)
  play.synced(`${path}.next`)
  play.move(path, `${path}.001`)
  play.names()
  play.move(`${path}.next`, path)
  play.names()
  return play
}

test('a segment without records may be replaced', () => {
  const play = rotated()
  play.make(`${path}.next`, second.replace('id=5', 'id=6'))
  play.synced(`${path}.next`)
  play.move(`${path}.next`, path)
  play.names()
  play.settled('open')
  expect(play.breaches).toEqual([])
})

test('a writer that keeps the order causes no findings', () => {
  const play = rotated()
  play.acknowledge(1, ['1', '2'])
  play.settled('rotate')
  play.make(`${path}.seal.tmp`, `bytes=${second.length} records=0 `)
  play.synced(`${path}.seal.tmp`)
  play.move(`${path}.seal.tmp`, `${path}.seal`)
  play.names()
  play.unlink(`${path}.001`)()
  play.names()
  expect(play.breaches).toEqual([])
})

const doctored: ReadonlyArray<readonly [name: string, play: () => OrderRules, breach: RegExp]> = [
  ['an acknowledgement before the sync', () => {
    const play = journal()
    play.add(path, header.length + 4, '3\n')
    play.acknowledge(3, ['3'])
    return play
  }, /acknowledged before its bytes are synced/],
  ['an acknowledgement of a record lost in a failed sync', () => {
    const play = journal()
    play.add(path, header.length + 4, '3\n')
    play.sync(path)(false)
    play.begin()
    play.synced(path)
    play.acknowledge(3, ['3'])
    return play
  }, /acknowledged before its bytes are synced/],
  ['an acknowledgement of a different record', () => {
    const play = journal()
    play.acknowledge(2, ['3'])
    return play
  }, /not in the journal/],
  ['an acknowledgement before the directory of a new segment is synced', () => {
    const play = new Play(path)
    play.make(path, `${header}1\n`)
    play.synced(path)
    play.acknowledge(1, ['1'])
    return play
  }, /before the directory of \/d\/j is synced/],
  ['an acknowledgement in a directory whose own name is not durable', () => {
    const play = new Play(path)
    play.makeDirectory('/d')()
    play.make(path, `${header}1\n`)
    play.synced(path)
    play.names()
    play.acknowledge(1, ['1'])
    return play
  }, /name of the directory \/d/],
  ['a sync of the directory that began before the rename', () => {
    const play = journal()
    play.make(`${path}.next`, second)
    play.synced(`${path}.next`)
    const done = play.syncDirectory('/d')
    play.move(path, `${path}.001`)
    done()
    play.move(`${path}.next`, path)
    return play
  }, /before the change of names before it is durable/],
  ['two renames of a rotation without a sync in between', () => {
    const play = journal()
    play.make(`${path}.next`, second)
    play.synced(`${path}.next`)
    play.move(path, `${path}.001`)
    play.move(`${path}.next`, path)
    return play
  }, /before the change of names before it is durable/],
  ['a next segment that is renamed before its header is synced', () => {
    const play = journal()
    play.make(`${path}.next`, second)
    play.move(path, `${path}.001`)
    play.names()
    play.move(`${path}.next`, path)
    return play
  }, /before its bytes are durable/],
  ['a rotation that resolves before its last rename is durable', () => {
    const play = journal()
    play.move(path, `${path}.001`)
    play.settled('rotate')
    return play
  }, /rotate has resolved before/],
  ['a deletion before the rotation is durable', () => {
    const play = journal()
    play.make(`${path}.next`, second)
    play.synced(`${path}.next`)
    play.move(path, `${path}.001`)
    play.names()
    play.move(`${path}.next`, path)
    play.unlink(`${path}.001`)()
    return play
  }, /removed before the change of names before it is durable/],
  ['a deletion with no durable active segment', () => {
    const play = journal()
    play.move(path, `${path}.001`)
    play.names()
    play.unlink(`${path}.001`)()
    return play
  }, /removed before the active segment is durable/],
  ['a deletion before the previous one is durable, and a deletion out of order', () => {
    const play = rotated()
    play.exists(`${path}.002`, Buffer.from(second), Buffer.from(second))
    play.unlink(`${path}.002`)()
    play.unlink(`${path}.001`)()
    return play
  }, /\.002 is removed before the older .*\n.*\.001 is removed before the change of names/],
  ['a seal ahead of its data', () => {
    const play = journal()
    play.add(path, header.length + 4, '3\n')
    play.make(`${path}.seal.tmp`, `bytes=${header.length + 6} records=3 `)
    play.synced(`${path}.seal.tmp`)
    play.move(`${path}.seal.tmp`, `${path}.seal`)
    return play
  }, /the seal says 60 bytes before they are durable/],
  ['a segment with a record that is replaced', () => {
    const play = journal()
    play.make(`${path}.next`, second)
    play.synced(`${path}.next`)
    play.move(`${path}.next`, path)
    return play
  }, /the segment \/d\/j is replaced/],
  ['a sealed segment that is replaced', () => {
    const play = rotated()
    play.make(`${path}.next`, header)
    play.synced(`${path}.next`)
    play.move(`${path}.next`, `${path}.001`)
    return play
  }, /the segment \/d\/j\.001 is replaced/],
  ['an empty segment that is replaced under a seal', () => {
    const play = rotated()
    play.make(`${path}.seal`, `bytes=${second.length} `)
    play.make(`${path}.next`, second)
    play.synced(`${path}.next`)
    play.move(`${path}.next`, path)
    return play
  }, /the header of \/d\/j is replaced while a seal may still speak of it/],
  ['a rotation under a seal', () => {
    const play = journal()
    play.make(`${path}.seal`, 'bytes=1 ')
    play.move(path, `${path}.001`)
    return play
  }, /while a seal may still speak of it/],
  ['a second sync after a failed one', () => {
    const play = journal()
    play.sync(path)(false)
    play.synced(path)
    return play
  }, /synced again after a sync of it failed/],
  ['a torn tail that is cut before it is saved', () => {
    const play = new Play(path)
    const content = Buffer.from(`${header}1\n{"n"`)
    play.exists(path, content, content)
    play.begin()
    play.make(`${path}.torn-2.tmp`, '{"n"')
    play.truncate(path, header.length + 2)()
    return play
  }, /cut from \/d\/j before they are durable as evidence/],
  ['a write over durable bytes', () => {
    const play = journal()
    play.add(path, header.length, '7\n')
    return play
  }, /durable bytes of \/d\/j are overwritten/],
  ['a sealed segment that is written to, and evidence that is removed', () => {
    const play = rotated()
    play.exists(`${path}.torn-3`, Buffer.from('x'), Buffer.from('x'))
    play.add(`${path}.001`, header.length + 4, '3\n')
    play.unlink(`${path}.torn-3`)()
    return play
  }, /sealed segment \/d\/j\.001 is written to\n.*torn-3 is removed/],
]

test.each(doctored)('%s is found', (_, play, breach) => {
  expect(play().breaches.join('\n')).toMatch(breach)
})

test('a real store is observed: acknowledging a record that was never written is out of order', async () => {
  const files = new SimulatedFileSystem()
  const model = new JournalModel()
  const store = await model.open(files)
  await model.append(store, 1)
  expect(OrderMonitor.operations).toBeGreaterThan(10)
  expect(OrderMonitor.of(files, journalPath)).toBe(OrderMonitor.of(files, journalPath))
  expect(() => OrderMonitor.of(files, journalPath).acknowledge(2, ['never written'])).toThrow(/Out of order/)
  await store.close()
})
