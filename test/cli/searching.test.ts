import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { MiniStore, PreparedRecord } from '../../src/index.ts'
import { writeJournal } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { journal, ministore, replaceIn, start } from './run-command.ts'

const header = 'journal.jsonl'

/** A journal of records, in a segment for each list. */
async function journalOf(...segments: ReadonlyArray<readonly unknown[]>): Promise<string> {
  const path = join(await temporaryDirectory(), header)
  await writeJournal(path, segments)
  return path
}

/** A journal with these lines. */
async function journalWith(...lines: readonly string[]): Promise<string> {
  const path = join(await temporaryDirectory(), header)
  await using store = await MiniStore.open(path)
  await store.appendAll(lines.map((line) => new PreparedRecord(line)))
  return path
}

async function found(...args: readonly string[]): Promise<string[]> {
  const { stdout, stderr } = await ministore(['grep', ...args])
  expect(stderr).toBe('')
  return stdout.split('\n').slice(0, -1)
}

const orders = [
  { id: 1, status: 'paid', customer: { city: 'Oslo', tags: ['new', 'Ärger'] }, note: 'said "hi"' },
  { id: 2, status: 'open', customer: { city: 'Bergen', tags: [] }, note: 'a\\b\tc' },
  { id: 3, status: 'paid', customer: { city: 'oslo', tags: ['old'] }, note: null },
]

describe('grep', () => {
  test('prints the lines that contain a text, from every segment', async () => {
    const path = await journalOf(orders.slice(0, 1), orders.slice(1), [{ id: 4, status: 'paid' }])
    expect(await found('paid', path)).toEqual([orders[0], orders[2], { id: 4, status: 'paid' }].map((order) => JSON.stringify(order)))
    expect(await found('"id":2', path)).toEqual([JSON.stringify(orders[1])])
    expect(await found('', path)).toHaveLength(4)
    expect(await ministore(['grep', 'nowhere', path])).toEqual({ code: 1, stdout: '', stderr: '' })
  })

  test('finds text in the form that JSON gives it, and text beyond ASCII', async () => {
    const path = await journalOf(orders)
    expect(await found('said "hi"', path, '--sequence')).toEqual([`{"sequence":1,"record":${JSON.stringify(orders[0])}}`])
    expect(await found('a\\b\tc', path)).toEqual([JSON.stringify(orders[1])])
    expect(await found('Ärger', path)).toEqual([JSON.stringify(orders[0])])
    expect(await found('-i', 'äRGER', path)).toEqual([JSON.stringify(orders[0])])
    expect(await found('-i', 'SAID "HI"', path)).toEqual([JSON.stringify(orders[0])])
  })

  test('takes PATTERN as text unless --regex is given', async () => {
    const path = await journalOf([{ a: 'x.y' }, { a: 'xzy' }])
    expect(await found('x.y', path)).toEqual(['{"a":"x.y"}'])
    expect(await found('-i', 'X.Y', path)).toEqual(['{"a":"x.y"}'])
    expect(await found('--regex', 'x.y', path)).toEqual(['{"a":"x.y"}', '{"a":"xzy"}'])
    expect(await found('-E', '^\\{"a":"x[^y]y"', path)).toEqual(['{"a":"x.y"}', '{"a":"xzy"}'])
    const wrong = await ministore(['grep', '--regex', '(', path])
    expect(wrong).toMatchObject({ code: 2, stdout: '' })
    expect(wrong.stderr).toContain('Expected PATTERN to be a regular expression: ')
    expect(await ministore(['grep', 'a\nb', path])).toMatchObject({ code: 2, stdout: '' })
  })

  test('--where compares fields as text and as JSON', async () => {
    const path = await journalOf(orders)
    const ids = async (...conditions: readonly string[]): Promise<unknown[]> =>
      (await found('', path, ...conditions.flatMap((condition) => ['--where', condition]))).map((line) => (JSON.parse(line) as { id: number }).id)
    expect(await ids('status=paid')).toEqual([1, 3])
    expect(await ids('status="paid"')).toEqual([1, 3])
    expect(await ids('status=paid', 'customer.city=Oslo')).toEqual([1])
    expect(await ids('customer.tags.0=new')).toEqual([1])
    expect(await ids('customer.tags=[]')).toEqual([2])
    expect(await ids('customer={"city":"Bergen","tags":[]}')).toEqual([2])
    expect(await ids('id=2')).toEqual([2])
    expect(await ids('id=2.0')).toEqual([2])
    expect(await ids('note=null')).toEqual([3])
    expect(await ids('note=said "hi"')).toEqual([1])
    expect(await ids('customer.constructor=Oslo')).toEqual([])
    expect(await ids('status.length=4')).toEqual([])
    expect(await ids('nothing=undefined')).toEqual([])
    expect(await found('old', path, '--where', 'status=paid')).toEqual([JSON.stringify(orders[2])])
  })

  test('--where finds a value however it was written', async () => {
    const lines = [
      '{"n":1000}', '{"n":1e3}', '{"n":1.0E3}', '{"n":1000.0}', '{"\\u006e":1000}', '{"n":"1000"}', '{ "n" : 1000 }',
      '{"n":"pa\\u0069d"}', '{"n":12345678901234567890}', '{"n":1001}', '1000', '"n=1000"', '{"n":{"n":1000}}',
    ]
    const path = await journalWith(...lines)
    expect(await found('', path, '--where', 'n=1000')).toEqual(lines.slice(0, 7))
    expect(await found('', path, '--where', 'n=1e3')).toEqual([...lines.slice(0, 5), lines[6]])
    expect(await found('', path, '--where', 'n=paid')).toEqual([lines[7]])
    expect(await found('', path, '--where', 'n=12345678901234567890')).toEqual([lines[8]])
  })

  test('accepts a range, a limit and --count; --json says which journal and number', async () => {
    const [first, second] = [await journal(), await journalOf([7, 70])]
    expect(await found('', first, '--from', '3', '--to', '7', '--sequence')).toEqual(
      [3, 4, 5, 6, 7].map((n) => `{"sequence":${n},"record":${n}}`),
    )
    expect(await found('7', first, second)).toEqual([`${first}:7`, `${second}:7`, `${second}:70`])
    expect(await found('7', first, second, '--limit', '2')).toEqual([`${first}:7`, `${second}:7`])
    expect(await found('7', first, '--count')).toEqual(['1'])
    expect(await found('7', first, second, '-c')).toEqual([`${first}:1`, `${second}:2`])
    expect(await found('70', second, '--json')).toEqual([`{"journal":${JSON.stringify(second)},"sequence":2,"record":70}`])
    expect(await found('7', second, '--json', '--count')).toEqual([`{"journal":${JSON.stringify(second)},"count":2}`])
    expect(await ministore(['grep', '', first, '--from', '5', '--to', '4'])).toMatchObject({ code: 2, stdout: '' })
    expect(await ministore(['grep', '', first, '--where', 'a'])).toMatchObject({ code: 2, stdout: '' })
    expect(await ministore(['grep', '', first, '--where', 'a=1', '--no-json'])).toMatchObject({ code: 2, stdout: '' })
  })

  test('numbers the records of a journal whose beginning was dropped', async () => {
    const path = await journalOf([1, 2, 3], [4, 5, 6], [7])
    {
      await using store = await MiniStore.open(path)
      await store.truncateBefore(4)
    }
    expect(await found('', path, '--where', 'x=1', '--count')).toEqual(['0'])
    expect(await found('6', path, '--sequence')).toEqual(['{"sequence":6,"record":6}'])
  })

  test('agrees with a search of each record, whatever the blocks', async () => {
    const records = Array.from({ length: 5000 }, (_, index) => ({ index, text: (index % 97).toString(36).repeat(index % 400) }))
    const path = await journalOf(records.slice(0, 1700), records.slice(1700))
    for (const text of ['zz', '1s1s', '"index":4999', 'nope', '7']) {
      const expected = records.flatMap((record, at) => (JSON.stringify(record).includes(text) ? [`{"sequence":${at + 1},"record":${JSON.stringify(record)}}`] : []))
      const { stdout, code } = await ministore(['grep', text, path, '--sequence'])
      expect(stdout.split('\n').slice(0, -1), text).toEqual(expected)
      expect(code).toBe(expected.length > 0 ? 0 : 1)
    }
  })

  test('reports damage, with the exit code of damage, after what it found', async () => {
    const path = await journal()
    await replaceIn(`${path}.002`, '\n5\n', '\nx\n')
    const outcome = await ministore(['grep', '', path])
    expect(outcome).toMatchObject({ code: 1, stdout: '1\n2\n3\n4\nx\n6\n' })
    expect(outcome.stderr).toContain('journal.jsonl.002')
    expect(await ministore(['grep', '', `${path}-missing`])).toMatchObject({ code: 1, stdout: '' })
  })

  test('searches lines of another codec with --no-json', async () => {
    const path = join(await temporaryDirectory(), header)
    {
      await using store = await MiniStore.open(path, { codec: { encode: String, decode: String } })
      await store.append('say "hi"')
    }
    expect(await found('"hi"', path, '--no-json', '--sequence')).toEqual(['{"sequence":1,"record":"say \\"hi\\""}'])
  })

  test('emphasizes what it found on a terminal, and shows invisible characters', async () => {
    const path = await journalWith('"a\u2028needle"')
    const { stdout } = await ministore(['grep', 'needle', path], { columns: 80 })
    expect(stdout).toBe('"a\\u2028\u001B[31mneedle\u001B[39m"\n')
    expect((await ministore(['grep', 'needle', path], { columns: 80, env: { NO_COLOR: '1' } })).stdout).toBe('"a\\u2028needle"\n')
  })

  test('ends quietly when its output is closed', async () => {
    const path = await journalOf(Array.from({ length: 20_000 }, (_, index) => ({ index, text: 'x'.repeat(200) })))
    const child = start(['grep', 'x', path])
    const first = await new Promise<Buffer>((resolve) => child.stdout.once('data', resolve))
    child.stdout.destroy()
    const code = await new Promise((resolve) => child.once('exit', resolve))
    expect([code, String(first).startsWith('{"index":0,'), child.stderr.read()]).toEqual([0, true, null])
  })
})
