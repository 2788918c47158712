import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { Interrupted } from '../../src/cli/errors.ts'
import { MiniStore, PreparedRecord } from '../../src/index.ts'
import { addBytes, numbers } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { journal, ministore, outcomeOf, start } from './run-command.ts'

async function newPath(): Promise<string> {
  return join(await temporaryDirectory(), 'replica/journal.jsonl')
}

/** The matcher that vitest returns here has type `any`. */
const containing = (part: string): unknown => expect.stringContaining(part) as unknown

describe('replicate', () => {
  test('copies a journal, continues the copy, and reports what it copied', async () => {
    const [from, to] = [await journal(), await newPath()]
    expect(await ministore(['replicate', from, to])).toEqual({ code: 0, stdout: 'Copied 8 records (1 to 8).\n', stderr: '' })
    expect(await ministore(['replicate', from, to])).toEqual({
      code: 0, stdout: 'Nothing to copy: the replica is at sequence 8.\n', stderr: '',
    })
    await ministore(['append', from], '9\n')
    const { stdout } = await ministore(['replicate', '--json', from, to])
    expect(JSON.parse(stdout)).toEqual({ from, to, firstSequence: 9, lastSequence: 9, records: 1 })
    expect((await ministore(['cat', '--sequence', to])).stdout).toBe((await ministore(['cat', '--sequence', from])).stdout)
  })

  test('reads a journal that another process writes, and keeps its lines', async () => {
    const [from, to] = [await journal(), await newPath()]
    await using store = await MiniStore.open(from)
    await store.appendAll([new PreparedRecord('{"b":1,  "a":1e400}')])
    expect(await ministore(['replicate', from, to, '--batch', '2'])).toMatchObject({ code: 0, stderr: '' })
    expect(await readFile(to, 'utf8')).toContain('\n8\n{"b":1,  "a":1e400}\n')
  })

  test('with --follow copies new records until Ctrl-C, and ends with the report', { timeout: 20_000 }, async () => {
    const [from, to] = [await journal(), await newPath()]
    const child = start(['replicate', '--follow', from, to])
    await using store = await MiniStore.open<number>(from)
    for (const n of numbers(9, 30)) await store.append(n)
    while ((await MiniStore.read(to)).lastSequence < 30) await new Promise((resolve) => setTimeout(resolve, 20))
    child.kill('SIGINT')
    expect(await outcomeOf(child)).toEqual({ code: 0, stdout: 'Copied 30 records (1 to 30).\n', stderr: '' })
  })

  test('interrupted before the end reports the durable records and exits with 130', async () => {
    const [from, to] = [await journal(), await newPath()]
    const stop = new AbortController()
    stop.abort(new Interrupted('SIGINT'))
    for (const [options, told] of [
      [[], 'Interrupted after 0 records; the last has sequence 0.\n'],
      [['--json'], '{"error":{"code":"ERR_INTERRUPTED","message":"Interrupted after 0 records; the last has sequence 0","records":0,"lastSequence":0}}\n'],
    ] as const) {
      const outcome = await ministore(['replicate', from, to, ...options], { signal: stop.signal })
      expect(outcome).toEqual({ code: 130, stdout: '', stderr: told })
    }
  })

  test('refuses a journal that is no replica of it, with exit code 1', async () => {
    const [from, to] = [await journal(), await journal()]
    const before = await readFile(to)
    expect(await ministore(['replicate', from, to])).toMatchObject({ code: 1, stdout: '', stderr: containing('to be a replica of the source') })
    const { stderr } = await ministore(['replicate', from, to, '--json'])
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'ERR_MINISTORE_FOREIGN_JOURNAL' } })
    expect(await readFile(to)).toEqual(before)
  })

  test('refuses a target that is open for writing', async () => {
    const [from, to] = [await journal(), await newPath()]
    await using target = await MiniStore.open(to)
    expect(await ministore(['replicate', from, to])).toMatchObject({ code: 1, stderr: containing(to) })
    expect(target.lastSequence).toBe(0)
  })

  test('copies lines of another codec only with --no-json', async () => {
    const [from, to] = [join(await temporaryDirectory(), 'journal.jsonl'), await newPath()]
    const codec = { encode: (line: string) => line, decode: (line: string) => line }
    await using store = await MiniStore.open(from, { codec })
    await store.append('not JSON')
    expect(await ministore(['replicate', from, to])).toMatchObject({ code: 1, stderr: containing('is not JSON') })
    expect(await ministore(['replicate', from, to, '--no-json'])).toMatchObject({ code: 0 })
    expect(await ministore(['replicate', from, to, '--no-json'])).toMatchObject({ code: 0 })
    expect((await ministore(['cat', '--no-json', to])).stdout).toBe('not JSON\n')
  })

  test('copies what is readable before damage, and says where it is', async () => {
    const [from, to] = [await journal(), await newPath()]
    await addBytes(from, 'x\n9\n')
    const { code, stderr } = await ministore(['replicate', from, to])
    expect([code, stderr]).toEqual([1, containing(`The journal ${from} is damaged at journal.jsonl, line 4`)])
    expect((await MiniStore.read(to)).lastSequence).toBe(8)
  })

  test('shows its progress on a terminal', { timeout: 20_000 }, async () => {
    const [from, to] = [await journal(), await newPath()]
    const stop = new AbortController()
    const running = ministore(['replicate', '-f', from, to], { columns: 100, signal: stop.signal })
    while ((await MiniStore.read(to)).lastSequence < 8) await new Promise((resolve) => setTimeout(resolve, 20))
    await new Promise((resolve) => setTimeout(resolve, 300))
    stop.abort(new Interrupted('SIGINT'))
    const { stderr } = await running
    expect(stderr).toMatch(/replicate {2}8 records {2}\d+\/s {2}\d+ B/)
    expect(stderr.endsWith('\r\u001B[K')).toBe(true)
  })

  test.each([
    [['replicate', 'a'], 'Expected TO, got nothing'],
    [['replicate', 'a', './a'], 'Expected TO to be another journal than FROM, got the same'],
    [['replicate', 'a', 'b', '--batch', '0'], 'Expected --batch to be a whole number, from 1 to 100000, got "0"'],
    [['replicate', 'a', 'b', '--folow'], 'did you mean --follow?'],
  ])('%j is misuse', async (args, message) => {
    expect(await ministore(args)).toMatchObject({ code: 2, stdout: '', stderr: containing(message) })
  })

  test('says that there is no journal to copy, and makes none', async () => {
    const to = await newPath()
    expect(await ministore(['replicate', `${to}-none`, to])).toMatchObject({ code: 1, stderr: containing('There is no journal at') })
    expect((await MiniStore.read(to)).segments).toEqual([])
  })
})
