import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { MiniQueue } from '../../src/miniqueue/index.ts'
import { formatHead } from '../../src/minisnap/format.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { addBytes, editFile, numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore, type Outcome } from './run-command.ts'

/** Characters that control a terminal or are invisible in it. Line feeds are tested separately. */
const unseen = new RegExp(
  String.raw`[\0-\t\v-\x1F\x7F-\x9F\u061C\u115F\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF\u{E0000}-\u{E007F}]`,
  'u',
)

/** One character of each kind; the text is a valid file name. */
const hostile = 'a\u001B[2J\u009B1m\u202Eb\u2066c\u200Ed\u061Ce\u200B\u200Df\u2060\uFEFF\u2028g\u0085'

/** A directory with a hostile name. */
async function hostileDirectory(): Promise<string> {
  const directory = join(await temporaryDirectory(), hostile)
  await mkdir(directory)
  return directory
}

/**
 * A journal of two good records, a damaged line between them, a torn tail, and evidence of another
 * torn tail. Hostile are both names, the damaged line, the second record and the torn tail.
 */
async function hostileJournal(name = `${hostile}.jsonl`): Promise<string> {
  const path = join(await hostileDirectory(), name)
  await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['1', `${hostile}"`, `"${hostile.replaceAll('\u001B', '')}"`])
  await writeFile(`${path}.torn-9`, 'x')
  await addBytes(path, `"${hostile}`)
  return path
}

/** A journal of two segments; the header of the active segment is damaged and hostile. */
async function hostileHeader(): Promise<string> {
  const path = join(await hostileDirectory(), `${hostile}.jsonl`)
  await writeJournal(path, [numbers(1, 3), numbers(4, 6)])
  await editFile(path, (bytes) => Buffer.from(bytes.toString().replace('JOURNAL v0.2.0', `JOURNAL v${hostile}`)))
  return path
}

/** A queue with a ready message and a dead letter: hostile payloads and a hostile reason. */
async function hostileQueue(): Promise<string> {
  const directory = await hostileDirectory()
  await using queue = await MiniQueue.open(directory, { maxAttempts: 1 })
  await queue.enqueue({ [hostile]: hostile })
  const [message] = await queue.receive()
  await message?.nack({ reason: hostile })
  await queue.enqueue(hostile)
  return directory
}

/** A state with a sound snapshot, an invalid one with hostile text, and a hostile journal. */
async function hostileState(): Promise<string> {
  const directory = await hostileDirectory()
  await new SnapStore(directory).create({}, 3)
  await writeFile(join(directory, 'snapshot-4.json'), `{${hostile}\n`)
  await rename(await hostileJournal('journal.jsonl'), join(directory, 'journal.jsonl'))
  return directory
}

describe.skipIf(process.platform === 'win32')('text from files cannot control a terminal', () => {
  // The clock never advances, so no progress bar is drawn.
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
    ['grep 1', hostileJournal],
    ['inspect', hostileJournal],
    ['verify', hostileJournal],
    ['verify --no-json', hostileJournal],
    ['repair', hostileJournal],
    ['repair --truncate-at 2', hostileJournal],
    ['repair --truncate-at 2 --write', hostileJournal],
    ['repair --drop-damaged', hostileJournal],
    ['repair --write', hostileJournal],
    ['compact --before 1', hostileJournal],
    ['compact --before 99', hostileJournal],
    ['append', hostileJournal],
    ['cat', hostileHeader],
    ['grep 1', hostileHeader],
    ['inspect', hostileHeader],
    ['verify', hostileHeader],
    ['repair', hostileHeader],
    ['append', hostileHeader],
    ['compact --before 4', hostileHeader],
    ['replicate /dev/null/copy.jsonl', hostileJournal],
    ['replicate /dev/null/copy.jsonl', hostileHeader],
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
      ministore([command, ...(command === 'grep' ? [...more, path, path] : [path, ...more]), ...options], { columns: 120, env: { NO_COLOR: '1' }, input: `1\n${hostile}\n` })
    const text = await run()
    expect(text.stdout + text.stderr).not.toMatch(unseen)
    expect(text.stdout + text.stderr).toMatch(/[^\n]\n$/)
    if (words.startsWith('cat') || words.startsWith('tail') || words.includes('--write')) return
    const json = await run('--json')
    expect(json.stdout + json.stderr).not.toMatch(unseen)
    for (const line of `${json.stdout}${json.stderr}`.split('\n').slice(0, -1)) expect(() => JSON.parse(line) as unknown).not.toThrow()
  })

  test('the control characters appear as escapes', async () => {
    const path = await hostileJournal('journal.jsonl')
    const shown = String.raw`a\x1b[2J\x9b1m\u202eb\u2066c\u200ed\u061ce\u200b\u200df\u2060\ufeff\u2028g\x85`
    const { stdout } = await ministore(['verify', path])
    expect(stdout, 'V8 quotes no more of it').toContain(String.raw`"a\x1b[2J\x9b1m\u202eb`)
    expect((await ministore(['inspect', path])).stdout).toContain(`/${shown}/journal.jsonl\n`)
    const absent = await ministore(['cat', join(await hostileDirectory(), 'no.jsonl')])
    expect(absent.stderr).toContain(`/${shown}/no.jsonl. Give the path`)
    const told = await ministore(['inspect', path, '--json'])
    expect(JSON.parse(told.stdout), 'programs get the true path').toMatchObject({ journal: path })
  })

  test('a record keeps its bytes in a pipe, and its value on a terminal', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const records = ['"\u202Ea\u200B\u{E0041}é🚀"', '{"a":\t"\u2028"}']
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', records)
    for (const name of ['cat', 'tail']) {
      expect((await ministore([name, path])).stdout).toBe(`${records.join('\n')}\n`)
      const shown = String.raw`"\u202ea\u200b\udb40\udc41é🚀"`
      const { stdout } = await ministore([name, path], { columns: 80, env: { NO_COLOR: '1' } })
      expect(stdout).toBe(`${shown}\n{"a":\t"\\u2028"}\n`)
      expect(stdout.split('\n').slice(0, -1).map((line) => JSON.parse(line) as unknown)).toEqual(records.map((line) => JSON.parse(line) as unknown))
    }
    const numbered = await ministore(['cat', '--sequence', '--limit', '1', path], { columns: 80, env: { NO_COLOR: '1' } })
    expect(JSON.parse(numbered.stdout)).toEqual({ sequence: 1, record: JSON.parse(records[0] as string) as unknown })
  })

  test('an error that quotes a name with a line feed stays one line', async () => {
    const path = join(await temporaryDirectory(), 'a\nministore: all is well')
    const { stderr } = await ministore(['cat', path])
    expect(stderr.split('\n')).toHaveLength(2)
    expect(stderr).toContain(String.raw`a\x0aministore: all is well`)
  })
})

describe('a forged queue', () => {
  const message = { payload: { n: 1 }, bytes: 7 }
  const enqueue = (field: string, value: string): string =>
    `{"op":"enqueue","at":1,"messages":[{"payload":1,"bytes":1,"${field}":${value}}]}`
  /** Journals after two messages and a dead letter. */
  const lines: readonly string[] = [
    'null', '7', '"deliver"', '[]', '{}', '{"op":null}', '{"op":"__proto__"}', '{"op":"constructor"}', '{"op":["ack"]}',
    '{"op":"deliver","ids":["__proto__"]}', '{"op":"deliver","ids":["constructor"]}', '{"op":"deliver","ids":7}', '{"op":"deliver"}',
    '{"op":"deliver","ids":[[1]]}', '{"op":"return","ids":{"length":1}}', '{"op":"ack","ids":[null]}',
    '{"op":"nack","id":"__proto__","reason":"x"}', '{"op":"nack","id":1,"reason":{}}', '{"op":"nack","id":1,"dueAt":1e300}',
    '{"op":"bury","ids":[1],"reason":7,"at":1}', '{"op":"bury","ids":[1],"reason":"x","at":1e300}', '{"op":"bury","ids":[1],"reason":"x","at":"now"}',
    '{"op":"redrive","ids":["__proto__"]}', '{"op":"discard","ids":["__proto__"]}', '{"op":"purge","except":null}',
    '{"op":"batch","steps":null}', '{"op":"batch","steps":[null]}', '{"op":"batch","steps":[{"op":"batch","steps":[]}]}',
    '{"op":"enqueue","at":1e300,"messages":[]}', '{"op":"enqueue","at":null,"messages":[{"payload":1,"bytes":1}]}',
    '{"op":"enqueue","at":1,"messages":[null]}', '{"op":"enqueue","at":1,"messages":"ab"}', '{"op":"enqueue","at":1,"messages":[{"bytes":1}]}',
    '{"__proto__":{"op":"purge","except":[]}}',
    enqueue('dueAt', '9e15'), enqueue('dueAt', '"soon"'), enqueue('dueAt', '-9e15'), enqueue('priority', '"high"'), enqueue('priority', '1e400'),
    enqueue('bytes', '-1'), enqueue('bytes', 'null'), enqueue('key', '7'), enqueue('key', '"__proto__"'), enqueue('payload', '{"__proto__":{"attempts":7}}'),
    enqueue('payload', '"\\u202E\\u001B[2J"'), enqueue('payload', `${'['.repeat(5000)}${']'.repeat(5000)}`),
  ]
  const state = (changed: string, value: string): string => {
    const whole = {
      nextId: '3',
      nextOrder: '3',
      messages: JSON.stringify({ 1: { ...message, priority: 0, order: 1, enqueuedAt: 1, attempts: 0 } }),
      dead: JSON.stringify({ 2: { ...message, priority: 0, enqueuedAt: 1, attempts: 1, reason: 'x', diedAt: 2 } }),
      keys: '{}',
      expiring: '[]',
      [changed]: value,
    }
    return `{${Object.entries(whole).map(([name, text]) => `"${name}":${text}`).join()}}`
  }
  const one = '"payload":1,"bytes":1,"priority":0,"order":1,"attempts":0'
  const dead = '"payload":1,"bytes":1,"priority":0,"attempts":0,"reason":"x"'
  /** States of snapshots in front of an empty journal. */
  const states: readonly string[] = [
    'null', '7', '"x"', '[]', '{}', state('nextId', '"1"'), state('nextId', '1e300'), state('nextOrder', 'null'),
    state('messages', '[null]'), state('messages', 'null'), state('messages', '{"1":null}'), state('messages', '{"x":{}}'),
    state('messages', `{"1":{${one},"enqueuedAt":1e300}}`), state('messages', `{"1":{${one},"enqueuedAt":"now"}}`),
    state('messages', `{"1":{${one},"enqueuedAt":1,"dueAt":9e15}}`), state('messages', `{"1":{${one},"enqueuedAt":1,"reason":{}}}`),
    state('messages', `{"__proto__":{${one},"enqueuedAt":1}}`), state('messages', `{"1":{${one},"enqueuedAt":null}}`),
    state('dead', '[]'), state('dead', '{"1":7}'), state('dead', `{"2":{${dead},"enqueuedAt":1,"diedAt":1e300}}`),
    state('dead', `{"2":{${dead},"enqueuedAt":1,"diedAt":2,"reason":null}}`), state('dead', `{"2":{${dead},"enqueuedAt":-9e15,"diedAt":2}}`),
    state('dead', `{"__proto__":{${dead},"enqueuedAt":1,"diedAt":2}}`),
    state('keys', '{"__proto__":{"id":1}}'), state('keys', 'null'), state('expiring', '{}'), state('expiring', '[null]'),
  ]

  const good = [
    { op: 'enqueue', at: 1, messages: [message, message] },
    { op: 'bury', ids: [2], reason: 'x', at: 2 },
  ]

  const forgeries: ReadonlyArray<readonly [what: string, text: string, make: (directory: string) => Promise<void>]> = [
    ...lines.map((line) => ['mutation', line, (directory: string) =>
      writeSegment(join(directory, 'journal.jsonl'), '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', [...good.map((step) => JSON.stringify(step)), line])] as const),
    ...states.map((text) => ['state', text, (directory: string) => forgeSnapshot(directory, text)] as const),
  ]

  test.each(forgeries.map(([what, text, make]) => [what, text.slice(0, 100), make] as const))(
    'is harmless with every command: the %s %s',
    async (_what, _text, make) => {
      const before = prototypes()
      let isRefused: boolean | undefined
      const unchanged = await temporaryDirectory()
      await make(unchanged)
      for (const action of ['stats', 'peek', 'dead', 'redrive all', 'discard all'] as const) {
        for (const options of [[], ['--json']]) {
          const directory = action.endsWith('all') ? await temporaryDirectory() : unchanged
          if (directory !== unchanged) await make(directory)
          const { code, stdout, stderr } = await ministore(['queue', directory, ...action.split(' '), ...options])
          expect(prototypes()).toEqual(before)
          expect(stdout + stderr).not.toMatch(unseen)
          isRefused ??= code === 1
          expect({ code, printed: stdout !== '' }, `${action}: all commands agree`).toEqual(
            isRefused ? { code: 1, printed: false } : { code: 0, printed: expect.anything() as boolean },
          )
          if (!isRefused) expect(stderr).toBe('')
          else if (options.length === 0) expect(stderr).toMatch(/^ministore: (?!.* at .*:\d+:\d+).*\n$/)
          else expect(JSON.parse(stderr)).toMatchObject({ error: { code: expect.stringMatching(/^ERR_MINISTORE_/) as string } })
        }
      }
    },
  )
})

/** The keys of the built-in prototypes: an equal list before and after shows no pollution. */
function prototypes(): unknown[] {
  return [Object.prototype, Array.prototype, Number.prototype, String.prototype].map((prototype) => Reflect.ownKeys(prototype))
}

/** A snapshot file with the given state, in the format that a store writes. */
async function forgeSnapshot(directory: string, state: string): Promise<void> {
  await writeFile(join(directory, 'snapshot-4.json'), `${formatHead({ sequence: 4, crc32: crc32(state), journal: undefined })}${state}}\n`)
  await writeSegment(join(directory, 'journal.jsonl'), '// MINISTORE JOURNAL v0.3.0 seq=5 id=5c1e9a70b2f4d833', [])
}
