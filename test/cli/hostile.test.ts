import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { MiniQueue } from '../../src/miniqueue/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { addBytes, editFile, numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore, type Outcome } from './run-command.ts'

/** What does something to a terminal, or hides there. Line feeds are looked at apart. */
const unseen = new RegExp(
  String.raw`[\0-\t\v-\x1F\x7F-\x9F\u061C\u115F\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF\u{E0000}-\u{E007F}]`,
  'u',
)

/** One of each kind; a file may be called so. */
const hostile = 'a\u001B[2J\u009B1m\u202Eb\u2066c\u200Ed\u061Ce\u200B\u200Df\u2060\uFEFF\u2028g\u0085'

/** A directory whose name is hostile too. */
async function hostileDirectory(): Promise<string> {
  const directory = join(await temporaryDirectory(), hostile)
  await mkdir(directory)
  return directory
}

/** Two good records, a damaged line between them, a torn end and evidence of another, all hostile, as is the header. */
async function hostileJournal(name = `${hostile}.jsonl`): Promise<string> {
  const path = join(await hostileDirectory(), name)
  await writeSegment(path, '// MINISTORE JOURNAL v0.2.0 seq=1', ['1', `${hostile}"`, `"${hostile.replaceAll('\u001B', '')}"`])
  await writeFile(`${path}.torn-9`, 'x')
  await addBytes(path, `"${hostile}`)
  return path
}

/** Two segments, the second of which does not begin as it should. */
async function hostileHeader(): Promise<string> {
  const path = join(await hostileDirectory(), `${hostile}.jsonl`)
  await writeJournal(path, [numbers(1, 3), numbers(4, 6)])
  await editFile(path, (bytes) => Buffer.from(bytes.toString().replace('JOURNAL v0.2.0', `JOURNAL v${hostile}`)))
  return path
}

/** A message and a dead letter with hostile payloads, a reason, and a snapshot that is none. */
async function hostileQueue(): Promise<string> {
  const directory = await hostileDirectory()
  await using queue = await MiniQueue.open(directory, { maxAttempts: 1 })
  await queue.enqueue({ [hostile]: hostile })
  const [message] = await queue.receive()
  await message?.nack({ reason: hostile })
  await queue.enqueue(hostile)
  return directory
}

async function hostileState(): Promise<string> {
  const directory = await hostileDirectory()
  await new SnapStore(directory).create({}, 3)
  await writeFile(join(directory, 'snapshot-4.json'), `{${hostile}\n`)
  await rename(await hostileJournal('journal.jsonl'), join(directory, 'journal.jsonl'))
  return directory
}

describe.skipIf(process.platform === 'win32')('a terminal is not at the mercy of a text', () => {
  // Never does a moment pass, so that no progress bar is drawn.
  beforeEach(() => {
    const spy = vi.spyOn(performance, 'now').mockReturnValue(0)
    return () => spy.mockRestore()
  })

  const commands: ReadonlyArray<readonly [words: string, make: () => Promise<string>]> = [
    ['cat', hostileJournal],
    ['cat --salvage', hostileJournal],
    ['cat --salvage --sequence', hostileJournal],
    ['cat --no-json', hostileJournal],
    ['cat --no-json --sequence', hostileJournal],
    ['tail -n 1', hostileJournal],
    ['tail --no-json', hostileJournal],
    ['inspect', hostileJournal],
    ['verify', hostileJournal],
    ['verify --no-json', hostileJournal],
    ['repair', hostileJournal],
    ['repair --drop-damaged', hostileJournal],
    ['repair --drop-damaged --write', hostileJournal],
    ['repair --write', hostileJournal],
    ['compact --before 1', hostileJournal],
    ['compact --before 99', hostileJournal],
    ['append', hostileJournal],
    ['cat', hostileHeader],
    ['inspect', hostileHeader],
    ['verify', hostileHeader],
    ['repair', hostileHeader],
    ['append', hostileHeader],
    ['compact --before 4', hostileHeader],
    ['stats', hostileState],
    ['queue', hostileState],
    ['queue', hostileQueue],
    ['queue peek', hostileQueue],
    ['queue dead', hostileQueue],
    ['verify', hostileDirectory],
    ['stats', hostileDirectory],
    ['queue', hostileDirectory],
  ]

  test.each(commands.map(([words, make]) => [words, make.name, make] as const))('of %s, %s', async (words, _name, make) => {
    const [command = '', ...more] = words.split(' ')
    const path = await make()
    const run = (...options: readonly string[]): Promise<Outcome> =>
      ministore([command, path, ...more, ...options], { columns: 120, env: { NO_COLOR: '1' }, input: `1\n${hostile}\n` })
    const text = await run()
    expect(text.stdout + text.stderr).not.toMatch(unseen)
    expect(text.stdout + text.stderr).toMatch(/[^\n]\n$/)
    if (words.startsWith('cat') || words.startsWith('tail') || words.includes('--write')) return
    const json = await run('--json')
    expect(json.stdout + json.stderr).not.toMatch(unseen)
    for (const line of `${json.stdout}${json.stderr}`.split('\n').slice(0, -1)) expect(() => JSON.parse(line) as unknown).not.toThrow()
  })

  test('what it would have seen stands there as an escape', async () => {
    const path = await hostileJournal('journal.jsonl')
    const shown = String.raw`a\x1b[2J\x9b1m\u202eb\u2066c\u200ed\u061ce\u200b\u200df\u2060\ufeff\u2028g\x85`
    const { stdout } = await ministore(['verify', path])
    expect(stdout, 'V8 quotes no more of it').toContain(String.raw`"a\x1b[2J\x9b1m\u202eb`)
    expect((await ministore(['inspect', path])).stdout).toContain(`/${shown}/journal.jsonl\n`)
    const absent = await ministore(['cat', join(await hostileDirectory(), 'no.jsonl')])
    expect(absent.stderr).toContain(`/${shown}/no.jsonl. Give the path`)
    const told = await ministore(['inspect', path, '--json'])
    expect(JSON.parse(told.stdout), 'programs get what it is').toMatchObject({ journal: path })
  })

  test('a record keeps its bytes in a pipe, and its value on a terminal', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const records = ['"\u202Ea\u200B\u{E0041}é🚀"', '{"a":\t"\u2028"}']
    await writeSegment(path, '// MINISTORE JOURNAL v0.2.0 seq=1', records)
    for (const name of ['cat', 'tail']) {
      expect((await ministore([name, path])).stdout).toBe(`${records.join('\n')}\n`)
      const shown = String.raw`"\u202ea\u200b\udb40\udc41é🚀"`
      const { stdout } = await ministore([name, path], { columns: 80 })
      expect(stdout).toBe(`${shown}\n{"a":\t"\\u2028"}\n`)
      expect(stdout.split('\n').slice(0, -1).map((line) => JSON.parse(line) as unknown)).toEqual(records.map((line) => JSON.parse(line) as unknown))
    }
    const numbered = await ministore(['cat', '--sequence', '--limit', '1', path], { columns: 80 })
    expect(JSON.parse(numbered.stdout)).toEqual({ sequence: 1, record: JSON.parse(records[0] as string) as unknown })
  })

  test('an error that quotes a name with a line feed stays one line', async () => {
    const path = join(await temporaryDirectory(), 'a\nministore: all is well')
    const { stderr } = await ministore(['cat', path])
    expect(stderr.split('\n')).toHaveLength(2)
    expect(stderr).toContain(String.raw`a\x0aministore: all is well`)
  })
})
