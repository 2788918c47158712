import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'

import {
  type Check, checksOf, type Facts, followLive, linesOf, loadExamples, planRecords, replayAll, replayToReport, show,
  type WebhookRecord,
} from '../../src/cli/commands/demo.ts'
import { Interrupted } from '../../src/cli/errors.ts'
import { Output } from '../../src/cli/output.ts'
import { MiniStore } from '../../src/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { main, type Outcome, textUntil } from './run-command.ts'

const ROOT = join(import.meta.dirname, '../..')

/** Several times what it takes when two other test files run beside it. */
const TIMEOUT_MS = 120_000

const signal = new AbortController().signal

describe('the demo', () => {
  let directory: string
  let outcome: Outcome

  beforeAll(async () => {
    expect(existsSync(main), `${main} is missing: run \`npm run build\` first`).toBe(true)
    directory = await mkdtemp(join(tmpdir(), 'ministore-demo-test-'))
    await mkdir(join(directory, 'kept'))
    outcome = await outcomeOf(startDemo(join(directory, 'kept'), await wordsOfScript()))
  }, TIMEOUT_MS)

  afterAll(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  test('ends with exit code 0 and says nothing on standard error', () => {
    expect(outcome.stderr).toBe('')
    expect(outcome.code, outcome.stdout).toBe(0)
  })

  test('has a check for each claim, and none fails', () => {
    const lines = outcome.stdout.split('\n')
    expect(lines.filter((line) => line.includes('FAILED'))).toEqual([])
    expect(lines.filter((line) => line.startsWith('ok  '))).toHaveLength(13)
    expect(outcome.stdout).toMatch(/\nAll 13 checks passed\.\n$/)
    expect(outcome.stdout).toContain(`ok      the bytes kept (${evidenceTold().length} file`)
  })

  test('kills at least three writers', () => {
    const kills = [...outcome.stdout.matchAll(/^kill (\d+): acknowledged 1 to \d+, in flight \S+, /gm)].map(([, number]) => Number(number))
    expect(kills.length).toBeGreaterThanOrEqual(3)
    expect(kills).toEqual(kills.map((_, index) => index + 1))
  })

  test('prints numbered steps in short lines, without colour if there is no terminal', () => {
    expect(outcome.stdout).not.toContain('\u001B')
    const steps = [...outcome.stdout.matchAll(/^(\d+)\. /gm)].map(([, number]) => number)
    expect(steps).toEqual(['1', '2', '3', '4', '5'])
    // The demo does not choose the length of the temporary directory's path.
    const long = outcome.stdout.replaceAll(directory, '').split('\n').filter((line) => line.length > 80)
    expect(long).toEqual([])
  })

  test('leaves a journal of several segments whose lines, but for the first, are JSON', async () => {
    const path = journalPath()
    const names = await readdir(dirname(path))
    const segments = names.filter((name) => /^journal\.jsonl(?:\.\d+)?$/.test(name))
    expect(segments).toContain(basename(path))
    expect(segments.length).toBeGreaterThan(4)
    let records = 0
    for (const segment of segments) {
      const [header, ...lines] = (await readFile(join(dirname(path), segment), 'utf8')).split('\n')
      expect(header, segment).toMatch(/^\/\/ MINISTORE JOURNAL v\d+\.\d+\.\d+ seq=\d+/)
      expect(lines.pop(), `${segment} ends with a line feed`).toBe('')
      for (const line of lines) expect(JSON.parse(line)).toHaveProperty('event')
      records += lines.length
    }
    const counted = [...outcome.stdout.matchAll(/record (\d+), \w+, seen live/g)].at(-1)?.[1]
    expect(String(records), 'the last record that was seen live is the last one there is').toBe(counted)
  })

  test('keeps a file for each torn tail that it reports, and no other', async () => {
    const names = await readdir(dirname(journalPath()))
    const evidence = names.filter((name) => name.includes('.torn-'))
    expect(new Set(evidenceTold())).toEqual(new Set(evidence))
    expect(evidenceTold()).toHaveLength(evidence.length)
  })

  test('prints commands that name files which exist', () => {
    const commands = [...outcome.stdout.matchAll(/^(?:head|tail) -[nc] \d+ (\S+)/gm)].map(([, name]) => name as string)
    expect(commands.length).toBeGreaterThanOrEqual(2)
    expect(commands.filter((name) => !existsSync(join(dirname(journalPath()), name)))).toEqual([])
  })

  test('ends with exit code 1 and the message of the system when something unexpected happens', async () => {
    const failed = await outcomeOf(startDemo(join(directory, 'missing')))
    expect(failed.code).toBe(1)
    expect(failed.stderr).toMatch(/^ministore: ENOENT: no such file or directory, .*\n$/)
  }, TIMEOUT_MS)

  test('names the package to install if the records are missing', async () => {
    const root = await temporaryDirectory()
    await cp(join(ROOT, 'dist'), join(root, 'dist'), { recursive: true })
    await cp(join(ROOT, 'package.json'), join(root, 'package.json'))
    const { dependencies } = await manifest()
    for (const name of Object.keys(dependencies)) {
      await mkdir(dirname(join(root, 'node_modules', name)), { recursive: true })
      await symlink(join(ROOT, 'node_modules', name), join(root, 'node_modules', name), 'junction')
    }
    const words = [join(root, 'dist/cli/main.js'), 'demo']
    const stderr =
      'ministore: The demo needs @octokit/webhooks-examples, which is not installed: npm install @octokit/webhooks-examples\n'
    expect(await outcomeOf(startDemo(root, words))).toEqual({ code: 1, stdout: '', stderr })
  })

  test.skipIf(process.platform === 'win32')('ends quietly on Ctrl-C, which goes to its writers too', async () => {
    await mkdir(join(directory, 'interrupted'))
    const child = startDemo(join(directory, 'interrupted'), [main, 'demo'], { detached: true })
    onTestFinished(() => void child.kill('SIGKILL'))
    const stderr = text(child.stderr as NodeJS.ReadableStream)
    const closed = once(child, 'close') as Promise<[number | null]>
    // Here the second writer has begun, or is about to.
    await textUntil(child.stdout as Parameters<typeof textUntil>[0], '\nkill 1: ')
    child.stdout?.resume()
    process.kill(-(child.pid as number), 'SIGINT')
    expect({ code: (await closed)[0], stderr: await stderr }).toEqual({ code: 130, stderr: '' })
  }, TIMEOUT_MS)

  function journalPath(): string {
    const path = /^Journal: (.*)$/m.exec(outcome.stdout)?.[1] ?? ''
    expect(existsSync(path), `the printed path ${path} exists`).toBe(true)
    return path
  }

  function evidenceTold(): string[] {
    return [...outcome.stdout.matchAll(/kept in (\S+)/g)].map(([, name]) => String(name))
  }
})

describe('a check of the demo fails, and no other,', () => {
  /** Records 1 to 5 were sent; 3 was torn at a kill and sent again, 4 in flight and whole. */
  const facts: Facts = {
    sent: ['one', 'two', 'three', 'four', 'five'],
    found: ['one', 'two', 'three', 'four', 'five'],
    acknowledged: [1, 2, 3, 5],
    kills: [
      { lastAcknowledged: 2, inFlight: 3, lastSequence: 2 },
      { lastAcknowledged: 3, inFlight: 4, lastSequence: 4 },
      { lastAcknowledged: 4, inFlight: undefined, lastSequence: 4 },
    ],
    evidence: [{ sequence: 3, bytes: 'thr' }],
    lastSequence: 5,
    segments: 4,
    tornAtEnd: 0,
  }
  const kill = { lastAcknowledged: 4, inFlight: 5, lastSequence: 4 }

  test('when nothing is wrong: none', () => {
    const checks = checksOf(facts)
    expect(checks.filter(([, problem]) => problem !== false)).toEqual([])
    expect(checks.map(([claim]) => claim)).toEqual([
      'the bytes kept (1 file) begin their record',
      'each kill left the right record last',
      'records were acknowledged in their order',
      'all 4 acknowledged records are there',
      '5 records are as they were sent',
      'records without an acknowledgement (1) were in flight at a kill',
      'after the last close, nothing was torn',
      'the store counts 5 records',
      'the journal was rotated (4 segments)',
    ])
  })

  test.each<readonly [name: string, change: Partial<Facts>, problems: readonly string[]]>([
    ['evidence of something else', { evidence: [{ sequence: 3, bytes: 'two' }] }, ['record 3 differs']],
    ['evidence without bytes', { evidence: [{ sequence: 3, bytes: '' }] }, ['record 3 differs']],
    [
      'evidence that is longer than the record',
      { evidence: [{ sequence: 3, bytes: 'three\n4' }] },
      ['record 3 differs'],
    ],
    [
      'evidence of a record that was never sent',
      { evidence: [{ sequence: 6, bytes: 's' }] },
      ['record 6 differs'],
    ],
    ['bytes to repair after a proper close', { tornAtEnd: 7 }, ['expected 0, got 7']],
    [
      'a journal reopened without an acknowledged record',
      { kills: [...facts.kills, kill, { lastAcknowledged: 8, inFlight: 9, lastSequence: 7 }] },
      ['record 7 was not'],
    ],
    [
      'a journal reopened with a record that was never in flight',
      { kills: [...facts.kills, { lastAcknowledged: 4, inFlight: undefined, lastSequence: 5 }] },
      ['record 5 was not'],
    ],
    ['an acknowledgement twice', { acknowledged: [1, 2, 2, 3, 5] }, ['record 2 was late']],
    ['an acknowledgement that goes back', { acknowledged: [1, 3, 2, 5] }, ['record 2 was late']],
    ['an acknowledged record that is lost', { acknowledged: [1, 2, 3, 5, 6] }, ['record 6 is missing']],
    [
      'a record that is there twice',
      { found: ['one', 'two', 'one', 'four', 'five'] },
      ['record 3 is not what was sent'],
    ],
    ['a byte changed', { found: ['one', 'twO', 'three', 'four', 'five'] }, ['record 2 is not what was sent']],
    ['another order', { found: ['two', 'one', 'three', 'four', 'five'] }, ['record 1 is not what was sent']],
    [
      'a record that was never sent',
      { found: [...facts.found, '?'], acknowledged: [1, 2, 3, 5, 6], lastSequence: 6 },
      ['record 6 is not what was sent'],
    ],
    [
      'a record that was neither acknowledged nor in flight',
      { acknowledged: [1, 3, 5] },
      ['record 2 was not'],
    ],
    ['a store that counts fewer records', { lastSequence: 4 }, ['expected 5, got 4']],
    ['too few segments', { segments: 3 }, ['expected at least 4, got 3']],
  ])('on %s', (_name, change, problems) => {
    expect(checksOf({ ...facts, ...change }).flatMap(([, problem]) => problem || [])).toEqual(problems)
  })

  test('on a segment whose last line has no line feed, or has bytes after it', () => {
    expect(linesOf('header\na\n\nb c\n')).toEqual(['a', '', 'b c'])
    expect(linesOf('header\n')).toEqual([])
    for (const torn of ['one\ntwo\nthree\nfour\nfive', 'one\ntwo\nthree\nfour\nfive\nx']) {
      const found = linesOf(`header\n${torn}`)
      const problems = checksOf({ ...facts, found, lastSequence: found.length, acknowledged: found.map((_, at) => at + 1) })
      expect(problems.flatMap(([, problem]) => problem || [])).toEqual([`record ${found.length} is not what was sent`])
    }
  })
})

describe('a replay of the demo', () => {
  const records: WebhookRecord[] = ['ping', 'push', 'push', 'star'].map((event, index) => ({
    event, delivery: index + 1, payload: 'ä',
  }))

  test('passes its checks on what was sent', async () => {
    const store = await storeOf(records)
    expect(problemsIn(await partsOf(replayAll(store, records, signal)))).toEqual([false, false])
    expect(problemsIn(await partsOf(replayToReport(store, signal)))).toEqual([false])
    expect(problemsIn(await partsOf(followLive(store, records, signal)))).toEqual([false])
    expect(store.lastSequence).toBe(7)
  })

  test('fails its check if a record is missing or is not what was sent', async () => {
    const short = await partsOf(replayAll(await storeOf(records.slice(0, 3)), records, signal))
    expect(problemsIn(short)).toEqual(['expected 4, got 3', 'expected 4, got 3'])
    const changed = records.map((record) => ({ ...record, payload: record.delivery === 2 ? 'a' : 'ä' }))
    const parts = await partsOf(replayAll(await storeOf(changed), records, signal))
    expect(problemsIn(parts)).toEqual([false, 'expected 4, got 3'])
  })

  test('fails its check if the report and the store disagree', async () => {
    const store = await storeOf(records)
    const wrong = asStore({ lastSequence: 5, stream: () => store.stream() })
    expect(problemsIn(await partsOf(replayToReport(wrong, signal)))).toEqual(['expected 5, got 4'])
  })

  test('fails its check if a record is seen live twice or not at all', async () => {
    const store = await storeOf(records)
    const seen = async (numbers: readonly number[]): Promise<Array<string | false>> => {
      const entries = numbers.map((number) => ({ sequence: number, record: records[number - 4] as WebhookRecord }))
      const { lastSequence } = store
      const wrong = asStore({
        lastSequence,
        append: () => Promise.resolve(0),
        entries: () => ReadableStream.from(entries) as ReturnType<typeof store.entries>,
      })
      return problemsIn(await partsOf(followLive(wrong, records, signal)))
    }
    expect(await seen([5, 6, 7])).toEqual([false])
    expect(await seen([5, 5, 6])).toEqual(['expected 5, push; 6, push; 7, star, got 5, push; 5, push; 6, push'])
    expect(await seen([5, 6])).toEqual(['expected 5, push; 6, push; 7, star, got 5, push; 6, push'])
  })

  test('ends with the reason of its signal', async () => {
    const store = await storeOf(records)
    const reason = new Interrupted('SIGINT')
    const aborted = AbortSignal.abort(reason)
    await expect(partsOf(replayAll(store, records, aborted))).rejects.toBe(reason)
    await expect(partsOf(replayToReport(store, aborted))).rejects.toBe(reason)
    await expect(partsOf(followLive(store, records, aborted))).rejects.toBe(reason)
  })

  test('is a table of records and bytes by event: most records first, then most bytes', async () => {
    const large = { event: 'large', delivery: 5, payload: 'x'.repeat(2048) }
    const table = await tableOf([large, ...records])
    expect(table).toEqual([
      'event  records    bytes',
      'push         2     88 B  ████████████████████',
      'large        1  2.0 KiB  ██████████',
      'ping         1     44 B  ██████████',
      'star         1     44 B  ██████████',
    ])
  })

  test('is a table of no more than ten events, which counts the others', async () => {
    const many = Array.from({ length: 14 }, (_, index) => ({ event: `event${index}`, delivery: index + 1, payload: '' }))
    const table = await tableOf([...many, ...many.slice(0, 10)])
    expect(table.slice(1, -1).map((line) => line.split(/ +/, 2).join(' '))).toEqual(
      expect.arrayContaining(many.slice(0, 10).map(({ event }) => `${event} 2`)),
    )
    expect(table).toHaveLength(12)
    expect(table.at(-1)).toBe('and 4 other events')
  })

  async function tableOf(given: readonly WebhookRecord[]): Promise<string[]> {
    const store = asStore({
      lastSequence: given.length,
      stream: () => ReadableStream.from(given) as ReturnType<MiniStore<WebhookRecord>['stream']>,
    })
    const parts = await partsOf(replayToReport(store, signal))
    return parts.slice(1).filter((part) => typeof part === 'string')
  }

  async function storeOf(given: readonly WebhookRecord[]): Promise<MiniStore<WebhookRecord>> {
    const store = await MiniStore.open<WebhookRecord>(join(await temporaryDirectory(), 'journal.jsonl'))
    onTestFinished(() => store.close())
    await store.appendAll(given)
    return store
  }

  function asStore(parts: Partial<MiniStore<WebhookRecord>>): MiniStore<WebhookRecord> {
    return parts as MiniStore<WebhookRecord>
  }

  async function partsOf(parts: AsyncIterable<string | Check>): Promise<Array<string | Check>> {
    const list: Array<string | Check> = []
    for await (const part of parts) list.push(part)
    return list
  }

  function problemsIn(parts: ReadonlyArray<string | Check>): Array<string | false> {
    return parts.flatMap((part) => (typeof part === 'string' ? [] : [part[1]]))
  }
})

describe('what the demo shows', () => {
  test('has a line for each check, and one that fails makes the exit code 1', async () => {
    const good = await shown([['water is wet', false]])
    expect(good.code).toBe(0)
    expect(good.printed).toMatch(/^ok {6}water is wet\nAll 1 checks passed\.\n$/)
    const bad = await shown([['water is wet', false], ['fire is cold', 'it is hot'], ['air is there', false]])
    expect(bad.code).toBe(1)
    expect(bad.printed).toContain('ok      water is wet\nFAILED  fire is cold: it is hot\nok      air is there\n')
    expect(bad.printed).toMatch(/\n1 of 3 checks FAILED\.\n$/)
  })

  test('without any check is a failure', async () => {
    const { code, printed } = await shown(['a line'])
    expect(code).toBe(1)
    expect(printed).toMatch(/^a line\nNothing was checked\.\n$/)
  })

  test('has colour on a terminal, but not if NO_COLOR is set', async () => {
    const parts: Array<string | Check> = [['water is wet', false], ['fire is cold', 'it is hot']]
    expect((await shown(parts, { isTTY: true })).printed).toContain(
      '\u001B[32mok\u001B[39m      water is wet\n\u001B[31mFAILED\u001B[39m  fire is cold: it is hot\n',
    )
    expect((await shown(parts, { isTTY: true, env: { NO_COLOR: '1' } })).printed).not.toContain('\u001B')
  })

  test('ends with its output and with its signal, and begins nothing after that', async () => {
    const failure = new Error('EPIPE')
    await expect(shown(['a', 'b'], { failure })).rejects.toMatchObject({ name: 'OutputError', cause: failure })
    const reason = new Interrupted('SIGTERM')
    let begun = 0
    async function* parts(): AsyncGenerator<string> {
      for (;;) yield await Promise.resolve(`line ${++begun}`)
    }
    const end = { signal: AbortSignal.abort(reason) }
    await expect(shown(parts(), end)).rejects.toBe(reason)
    expect(begun).toBe(1)
  })

  async function shown(
    parts: AsyncIterable<string | Check> | ReadonlyArray<string | Check>,
    options: { isTTY?: boolean; env?: NodeJS.ProcessEnv; failure?: Error; signal?: AbortSignal } = {},
  ): Promise<{ code: number; printed: string }> {
    let printed = ''
    const write = (piece: string, done: (error?: Error) => void): boolean => {
      printed += piece
      done(options.failure)
      return true
    }
    const stdout = new Output({ write, on: () => {}, isTTY: options.isTTY ?? false })
    const iterable = Symbol.asyncIterator in parts ? parts : ReadableStream.from(parts)
    const code = await show(iterable, { stdout, env: options.env ?? {}, signal: options.signal ?? signal })
    await stdout.flush()
    return { code, printed }
  }
})

describe('the records of the demo', () => {
  const isBundle = ({ event }: WebhookRecord): boolean => event === 'bundle'
  const catalogue = [
    { name: 'push', examples: [1, 2, 3] },
    { name: 'ping', examples: [4, 5] },
  ]

  test('are each payload once, in order, numbered, with bundles of all of them in between', () => {
    const records = planRecords(catalogue, 2, 2)
    expect(records.map(({ event }) => event)).toEqual(['push', 'push', 'bundle', 'push', 'ping', 'bundle', 'ping'])
    expect(records.map(({ delivery }) => delivery)).toEqual([1, 2, 3, 4, 5, 6, 7])
    const payloads = records.filter((record) => !isBundle(record)).map(({ payload }) => payload)
    expect(payloads).toEqual([1, 2, 3, 4, 5])
    expect(records[2]?.payload).toHaveLength(10)
  })

  test('of the installed package are hundreds, no two of them are the same line, and four are bundles', () => {
    const records = planRecords(loadExamples(), undefined, 1)
    expect(records.length).toBeGreaterThan(300)
    expect(new Set(records.map((record) => JSON.stringify(record))).size).toBe(records.length)
    const bundles = records.filter(isBundle)
    expect(bundles).toHaveLength(4)
    expect([...records.slice(0, 1), ...records.slice(-3)].filter(isBundle)).toEqual([])
  })

  test('are appended once more with numbers that go on', async () => {
    const records = planRecords(catalogue, 9, 1)
    const appended: WebhookRecord[] = []
    const store = {
      lastSequence: records.length,
      append: (record: WebhookRecord) => Promise.resolve(appended.push(record)),
      entries: () => ReadableStream.from([]),
    }
    const parts = followLive(store as unknown as MiniStore<WebhookRecord>, records, signal)
    while ((await parts.next()).done !== true);
    expect(appended.map(({ delivery }) => delivery)).toEqual([6, 7, 8])
  })
})

/** What `npm run demo` starts once the sources are built. */
async function wordsOfScript(): Promise<string[]> {
  const { scripts } = await manifest()
  const [node, ...words] = scripts['demo']?.split(' && ').at(-1)?.split(' ') ?? []
  expect(node).toBe('node')
  return words
}

async function manifest(): Promise<Record<'scripts' | 'dependencies', Record<string, string>>> {
  return JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as Awaited<ReturnType<typeof manifest>>
}

/** Starts the demo with a temporary directory of its own, which the test removes. */
function startDemo(temporary: string, words = [main, 'demo'], options: { readonly detached?: boolean } = {}): ChildProcess {
  const env = { ...process.env, TMPDIR: temporary, TEMP: temporary, TMP: temporary }
  return spawn(process.execPath, words, { ...options, cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
}

async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const [stdout, stderr, [code]] = (await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    once(child, 'close'),
  ])) as [string, string, [number | null]]
  return { code, stdout, stderr }
}
