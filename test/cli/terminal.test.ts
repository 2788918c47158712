import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { isClosedPipe, Output, OutputError } from '../../src/cli/output.ts'
import { ProgressBar, progressLine } from '../../src/cli/progress-bar.ts'
import { barOf, definitions, excerpt, formatTable, padded, table, widthOf, wrap } from '../../src/cli/render.ts'
import {
  colouredJson, countText, durationText, jsonLine, plural, shellWord, sizeText, styleFor, visible, visibleJson, visibleLines,
} from '../../src/cli/terminal.ts'
import { writeJournal } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore } from './run-command.ts'

/** Each character controls a terminal or hides text in it. */
const unseenCharacters = Array.from(
  '\0\u0007\b\t\n\r\u001B\u007F\u0080\u0085\u009B\u009F' +
    '\u061C\u200B\u200C\u200D\u200E\u200F\u2028\u2029\u202A\u202B\u202C\u202D\u202E' +
    '\u2060\u2066\u2067\u2068\u2069\uFEFF\u00AD\u180E\u115F\u3164\u{E0001}\u{E0041}\u{E0100}',
)

/** A stream that keeps everything written to it. */
function stream(isTTY: boolean) {
  const seen: string[] = []
  const write = (text: string, done: () => void): boolean => {
    seen.push(text)
    done()
    return true
  }
  return { seen, output: new Output({ write, on: () => {}, isTTY, columns: 60 }) }
}

/** An output on a terminal where every write fails. */
function brokenOutput(): Output {
  const write = (_text: string, done: (error: Error) => void): boolean => {
    done(new Error('broken'))
    return false
  }
  return new Output({ write, on: () => {}, isTTY: true })
}

describe('a progress bar', () => {
  test('is drawn after a delay, at most ten times a second, and removed at the end', () => {
    const { seen, output } = stream(true)
    let now = 0
    const bar = new ProgressBar(output, 'verify', () => now)
    bar.update({ bytes: 1, totalBytes: 4 })
    expect(seen).toEqual([])
    for (now = 100; now < 1000; now += 10) bar.update({ bytes: 2, totalBytes: 4 })
    bar.clear()
    const drawn = seen.filter((text) => text !== '')
    expect(drawn).toHaveLength(10)
    expect(drawn.every((text) => text.length <= 59 + '\r\u001B[K'.length)).toBe(true)
    expect(drawn.at(-1)).toBe('\r\u001B[K')
  })

  test('is not drawn without a terminal', () => {
    const { seen, output } = stream(false)
    let now = 0
    const bar = new ProgressBar(output, 'verify', () => now)
    now = 1000
    bar.update({ bytes: 2, totalBytes: 4 })
    bar.clear()
    expect(seen).toEqual([])
  })

  test('that cannot be drawn does not cause a failure', async () => {
    let now = 0
    const bar = new ProgressBar(brokenOutput(), 'verify', () => now)
    for (now = 100; now < 1000; now += 100) {
      bar.update({ bytes: 2, totalBytes: 4 })
      await new Promise(setImmediate)
    }
    expect(() => bar.clear()).not.toThrow()
  })

  test('shows part, rate and time left, or records where the end is not known', () => {
    expect(progressLine('verify', { bytes: 512 * 1024, totalBytes: 2 * 1024 * 1024 }, 2)).toBe(
      'verify  ██████░░░░░░░░░░░░░░░░░░   25 %  512.0 KiB of 2.0 MiB  256.0 KiB/s  6 s left',
    )
    expect(progressLine('append', { bytes: 2048, records: 3000 }, 2)).toBe(
      'append  3 000 records  1 500/s  2.0 KiB  1.0 KiB/s',
    )
    expect(progressLine('verify', { bytes: 9, totalBytes: 0 }, 1)).toContain('100 %')
    expect(progressLine('verify', { bytes: 9, totalBytes: 8 }, 1), 'the file grows meanwhile').toMatch(/ █{24} {2}100 % .* 0 s left$/)
    expect(progressLine('verify', { bytes: 0, totalBytes: 8 }, 1)).toMatch(/ ░{24} {4}0 % {2}0 B of 8 B {2}0 B\/s {2}$/)
    expect(progressLine('verify', { bytes: 9, }, 1)).toBe('verify  9 B  9 B/s')
  })
})

describe('texts', () => {
  test('of sizes, counts and durations', () => {
    const sizes = [0, 1023, 1024, 1024 * 1024 - 1, 5.5 * 2 ** 30, 2 ** 60]
    expect(sizes.map(sizeText)).toEqual(['0 B', '1023 B', '1.0 KiB', '1.0 MiB', '5.5 GiB', '1048576.0 TiB'])
    expect([0, 999, 1000, 1234567].map(countText)).toEqual(['0', '999', '1 000', '1 234 567'])
    const durations = [0, 0.1, 59, 60, 61, 3599, 3600, 7260].map(durationText)
    expect(durations).toEqual(['0 s', '1 s', '59 s', '1 min 0 s', '1 min 1 s', '59 min 59 s', '1 h 0 min', '2 h 1 min'])
    expect([0, 1, 2, 1000].map((count) => plural(count, 'record'))).toEqual(['0 records', '1 record', '2 records', '1 000 records'])
  })

  test('of a table are aligned, styles not counted, without space at the end', () => {
    const rows = [
      ['name', 'n', ''],
      ['\u001B[1ma\u001B[22m', '10', 'x'],
    ]
    expect(formatTable(rows, [1])).toEqual(['name   n', '\u001B[1ma\u001B[22m     10  x'])
  })

  test('of a table give up optional columns, then break the last one into lines, in a narrow terminal', () => {
    const rows = [{ id: 7, at: '2026-11-21', text: 'a long payload\u001B' }]
    const tableIn = (columns: number): string[] =>
      table(
        rows,
        [
          { head: 'id', cell: ({ id }) => id, align: 'right' },
          { head: 'at', cell: ({ at }) => at, isOptional: true },
          { head: 'text', cell: ({ text }) => text, style: () => 'red' },
        ],
        { style: (name, text) => (name === 'red' ? text : `<${text}>`), columns },
      )
    const whole = ['<id  at          text>', ' 7  2026-11-21  a long payload\\x1b']
    expect(tableIn(Number.POSITIVE_INFINITY)).toEqual(whole)
    expect(tableIn(34)).toEqual(whole)
    expect(tableIn(33)).toEqual(['<id  text>', ' 7  a long payload\\x1b'])
    expect(tableIn(21)).toEqual(['<id  text>', ' 7  a long', '    payload\\x1b'])
    expect(tableIn(5), 'no column is narrower than a word').toEqual(['<id  text>', ' 7  a long', '    payload\\x1b'])
    rows[0] = { id: 7, at: '', text: `${'0123456789'.repeat(3)} end` }
    expect(tableIn(5), 'a long word is broken').toEqual(['<id  text>', ' 7  012345678901', '    234567890123', '    456789', '    end'])
    rows[0] = { id: 7, at: '', text: 'words '.repeat(40) }
    expect(tableIn(16), 'not all of a long text').toEqual([
      '<id  text>', ' 7  words words', ...Array.from({ length: 4 }, () => '    words words'), '    words words…',
    ])
  })

  test('are broken between words, and explain terms in two columns', () => {
    expect(wrap('one two three', 7)).toEqual(['one two', 'three'])
    expect(wrap('immeasurable is one', 5)).toEqual(['immeasurable', 'is', 'one'])
    expect(definitions([['a', 'short'], ['term', 'one two three four']], 18)).toEqual([
      'a     short', 'term  one two', '      three four',
    ])
  })

  test('of JSON have colours where the output has styles', async () => {
    const style = (name: string, text: string): string => `<${name} ${text}>`
    const coloured = '{<cyan "a\\"b">: [<yellow -1.5e3>,<yellow true>,<yellow null>,<green "x: 1">], <cyan "c">:{}}'
    expect(colouredJson(String.raw`{"a\"b": [-1.5e3,true,null,"x: 1"], "c":{}}`, style)).toBe(coloured)
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [[1, 2, 3]])
    expect((await ministore(['tail', '-2', path])).stdout).toBe('2\n3\n')
    expect((await ministore(['tail', '-1', path], { columns: 80 })).stdout).toBe('\u001B[33m3\u001B[39m\n')
    for (const [env, columns, isStyled] of [
      [{}, 80, true], [{ NO_COLOR: '1' }, 80, false], [{ FORCE_COLOR: '0' }, 80, false], [{ FORCE_COLOR: '1', NO_COLOR: '1' }, 80, true],
      [{ FORCE_COLOR: '1' }, undefined, true], [{ FORCE_COLOR: '' }, undefined, true], [{ FORCE_COLOR: 'false' }, undefined, false],
    ] as const) {
      const { stdout } = await ministore(['inspect', path], { env, ...(columns === undefined ? {} : { columns }) })
      expect(stdout.includes('\u001B[1m'), JSON.stringify(env)).toBe(isStyled)
    }
  })

  test('of bars show that something is more than nothing', () => {
    expect(barOf(8, { max: 8, columns: 4 })).toBe('████')
    expect(barOf(3, { max: 8, columns: 4 })).toBe('█▌')
    expect(barOf(1, { max: 100_000, columns: 4 })).toBe('▏')
    expect([barOf(0, { max: 8, columns: 4 }), barOf(0, { max: 0, columns: 4 })]).toEqual(['', ''])
  })

  test('from a file cannot control a terminal', () => {
    expect(visible('a\u001B[2Jb\n\u009Bc')).toBe('a\\x1b[2Jb\\x0a\\x9bc')
    expect(visible('a\u202Eb\u{E0041}c')).toBe('a\\u202eb\\u{e0041}c')
    for (const character of unseenCharacters) expect(visible(character)).toMatch(/^[\x20-\x7E]{4,9}$/)
    for (const seen of ['é', '漢字', '❤️', '🇩🇪', '👍🏽', 'नि', ' ', '\u00A0']) expect(visible(seen)).toBe(seen)
    expect(visibleLines('a\u001B[2Jb\r\n\u009Bc')).toBe('a\\x1b[2Jb\\x0d\n\\x9bc')
  })

  test('of JSON keep their value when they are escaped for a terminal', () => {
    const value = { [`\u202E${unseenCharacters.join('')}`]: ['\u{E0041}\t', 'é🚀'] }
    const line = jsonLine(value)
    expect(line.slice(0, -1)).toMatch(/^[^\p{C}\u2028\u2029\u115F]*$/u)
    expect(JSON.parse(line)).toEqual(value)
    const spaced = '{"a":\t"\u202E"}'
    expect(visibleJson(spaced)).toBe('{"a":\t"\\u202e"}')
    expect(visibleJson('1,\r2'), 'the text before it stays visible').toBe('1,\\u000d2')
  })

  const flag = '🏴\u{E0067}\u{E0062}\u{E007F}'
  test.each([
    ['abc', 3, 'abc'],
    ['abcd', 3, 'ab…'],
    ['', 3, ''],
    ['漢字漢', 6, '漢字漢'],
    ['漢字漢', 5, '漢字…'],
    ['漢字漢', 4, '漢…'],
    ['ab🚀', 3, 'ab…'],
    ['a🚀b', 3, 'a…'],
    ['e\u0301e\u0301e\u0301', 2, 'e\u0301…'],
    ['👍🏽👍🏽', 3, '👍🏽…'],
    ['🇩🇪🇫🇷', 3, '🇩🇪…'],
    ['x👩\u200D🚀', 8, 'x…'],
    ['x👩\u200D🚀', 11, 'x👩\\u200d🚀'],
    ['ab\u001B[2J', 5, 'ab…'],
    ['ab\u001B[2J', 9, 'ab\\x1b[2J'],
    [`a${flag}`, 20, 'a…'],
    [`a${'\u0301'.repeat(40)}b`, 20, '…'],
  ])('%j in %i columns is cut between user-perceived characters: %j', (text, columns, cut) => {
    expect(excerpt(text, columns)).toBe(cut)
  })

  test('have the width that a terminal gives them', () => {
    expect(['漢字', '🚀', 'e\u0301', '\u001B[1mab\u001B[22m'].map(widthOf)).toEqual([4, 2, 1, 2])
    expect(formatTable([['漢字', 'x'], ['a', 'y']])).toEqual(['漢字  x', 'a     y'])
    expect(padded('漢', 4)).toBe('漢  ')
    expect(padded('abcde', 4)).toBe('abcde')
  })

  test.each([
    [true, {}, true],
    [true, { NO_COLOR: '1' }, false],
    [true, { NO_COLOR: '' }, true],
    [true, { TERM: 'dumb' }, false],
    [false, {}, false],
  ])('have colour on a terminal (%j) with %j: %j', (isTTY, env, isStyled) => {
    const style = styleFor(stream(isTTY).output, { env })
    expect(style('red', 'x') !== 'x').toBe(isStyled)
  })
})

describe('output', () => {
  test('is passed on in large pieces, and at the latest when there is nothing else to do', async () => {
    const { seen, output } = stream(false)
    const idle = new Promise(setImmediate)
    expect(output.write('a')).toBeUndefined()
    expect(output.write('b')).toBeUndefined()
    expect(seen).toEqual([])
    await idle
    await new Promise(setImmediate)
    expect(seen).toEqual(['ab'])
    await output.write('x'.repeat(64 * 1024))
    expect(seen[1]?.length).toBe(64 * 1024)
  })

  test('makes its writer wait for a slow reader', async () => {
    const waiting: Array<() => void> = []
    const write = (_text: string, done: () => void): boolean => waiting.push(done) < 0
    const output = new Output({ write, on: () => {} })
    let isDone = false
    const writing = Promise.resolve(output.write('x'.repeat(64 * 1024))).then(() => (isDone = true))
    await new Promise(setImmediate)
    expect(isDone).toBe(false)
    waiting[0]?.()
    await writing
  })

  test('does not make its writer wait once the process is asked to end', async () => {
    const seen: string[] = []
    const stop = new AbortController()
    // The reader never reads.
    const output = new Output({ write: (text) => seen.push(String(text)) < 0, on: () => {} }, stop.signal)
    const writing = output.write('x'.repeat(64 * 1024))
    const flushing = output.flush()
    const reason = new Error('asked to end')
    stop.abort(reason)
    await expect(writing).rejects.toBe(reason)
    await expect(flushing).rejects.toBe(reason)
    void output.write('last words')
    await expect(output.flush()).rejects.toBe(reason)
    expect(seen.at(-1)).toBe('last words')
  })

  test('keeps its first failure and reports it to the next writer', async () => {
    const output = brokenOutput()
    void output.write('a')
    await new Promise(setImmediate)
    await new Promise(setImmediate)
    await expect(output.write('b')).rejects.toThrow('broken')
    await expect(output.flush()).rejects.toThrow('broken')
  })

  test('keeps the first of several failures', async () => {
    let writes = 0
    const output = new Output({ write: (_text, done) => (done(new Error(`failure ${++writes}`)), false), on: () => {} })
    output.tellAtOnce('a')
    output.tellAtOnce('b')
    await expect(output.flush()).rejects.toThrow('failure 1')
    const twice: Array<(error: Error) => void> = []
    const slow = new Output({ write: (_text, done) => twice.push(done) < 0, on: () => {} })
    slow.tellAtOnce('a')
    slow.tellAtOnce('b')
    for (const [at, done] of twice.entries()) done(new Error(`failure ${at}`))
    await expect(slow.flush()).rejects.toThrow('failure 0')
  })

  test('is flushed only when everything passed on before is written', async () => {
    const waiting: Array<() => void> = []
    const output = new Output({ write: (_text, done) => waiting.push(done) < 0, on: () => {} })
    output.tellAtOnce('a')
    let isOut = false
    const flushing = output.flush().then(() => (isOut = true))
    await new Promise(setImmediate)
    expect([isOut, waiting.length]).toEqual([false, 2])
    for (const done of waiting) done()
    await flushing
  })

  test.each([
    ['EPIPE', true],
    ['ERR_STREAM_DESTROYED', true],
    ['ENOSPC', false],
  ])('that fails with %s has a closed pipe: %j', (code, isClosed) => {
    const cause = Object.assign(new Error(code), { code })
    expect(isClosedPipe(new OutputError(cause))).toBe(isClosed)
    expect(isClosedPipe(cause), 'of something else').toBe(false)
  })

  test('has 80 columns unless a terminal says otherwise', () => {
    const columnsOf = (isTTY: boolean, columns?: number): number =>
      new Output({ write: () => true, on: () => {}, isTTY, ...(columns === undefined ? {} : { columns }) }).columns
    expect([columnsOf(true, 60), columnsOf(true), columnsOf(false, 60)]).toEqual([60, 80, 80])
  })

  test('passed to tell() never fails the caller; flush() reports the failure', async () => {
    const output = brokenOutput()
    output.tell('a')
    await new Promise(setImmediate)
    output.tell('x'.repeat(64 * 1024))
    await expect(output.flush()).rejects.toThrow('broken')
    output.tell('b')
  })

  test('that is empty cannot fail', async () => {
    const output = brokenOutput()
    await expect(output.flush()).resolves.toBeUndefined()
  })

  test('to a stream that throws fails like any other', async () => {
    const write = (): boolean => {
      throw new Error('broken')
    }
    const output = new Output({ write, on: () => {} })
    await output.write('x'.repeat(64 * 1024))
    await expect(output.flush()).rejects.toThrow('broken')
    await expect(output.write('b')).rejects.toThrow('broken')
  })
})

describe('a path in a command that is printed for copying', () => {
  test.each([
    ['state/journal.jsonl', 'state/journal.jsonl'],
    ['a b.jsonl', "'a b.jsonl'"],
    ['*.jsonl', "'*.jsonl'"],
    ["q'uote.jsonl", String.raw`'q'\''uote.jsonl'`],
    ['$HOME/`x`', "'$HOME/`x`'"],
    ['~/žofie', "'~/žofie'"],
    ['-dash.jsonl', './-dash.jsonl'],
    ['- dash.jsonl', "'./- dash.jsonl'"],
    ['a\nb\u001B[31m', String.raw`$'a\x0ab\x1b[31m'`],
    ["\u009B'\\", String.raw`$'\xc2\x9b\'\\'`],
    ['a\u202Eb', String.raw`$'a\xe2\x80\xaeb'`],
    ['a\u200Bb', String.raw`$'a\xe2\x80\x8bb'`],
  ])('%j is %s', (path, word) => {
    expect(shellWord(path)).toBe(word)
  })

  test.runIf(process.platform !== 'win32')('is the same for a shell', () => {
    for (const path of ['a b', '*', "q'u'ote", '$HOME "x" \\', '~', '#', ';', 'ž'])
      expect(execFileSync('sh', ['-c', `printf %s ${shellWord(path)}`], { encoding: 'utf8' })).toBe(path)
  })
})
