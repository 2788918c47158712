import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { commandFor, parseArguments } from '../bench/arguments.ts'
import { measureCalls, sliceOfTurns } from '../bench/calls.ts'
import { compare, type Entrant } from '../bench/comparison.ts'
import { changeAt, changeBytes, entriesOf } from '../bench/data/changes.ts'
import { syntheticRecord } from '../bench/data/synthetic.ts'
import { eventLoopFigures, watchEventLoop } from '../bench/event-loop.ts'
import { mountedAt } from '../bench/machine.ts'
import { resultsText } from '../bench/report/markdown.ts'
import { drawSection, type Echarts } from '../bench/report/plots.ts'
import { ratioText, timeText } from '../bench/report/units.ts'
import { type Section, withSection } from '../bench/results.ts'
import { median, percentiles, type Spread, spread, waitsInTurn } from '../bench/statistics.ts'
import { orderIn, turnAbout, warmTurnAbout } from '../bench/turn-about.ts'

describe('alternating runners', () => {
  test('every runner has one slice a round, and not always after the same runner', async () => {
    const log: string[] = []
    const runners = ['a', 'b', 'c'].map((name) => ({
      name,
      run: async (round: number) => {
        log.push(name)
        return `${name}${round}`
      },
    }))
    const results = await turnAbout(runners, 4)
    expect([...results]).toEqual([
      ['a', ['a0', 'a1', 'a2', 'a3']],
      ['b', ['b0', 'b1', 'b2', 'b3']],
      ['c', ['c0', 'c1', 'c2', 'c3']],
    ])
    expect(log.join('')).toBe('abcacbcabcba')
  })

  test('warm-up rounds are not in the results', async () => {
    let slices = 0
    const results = await warmTurnAbout([{ name: 'a', run: async () => ++slices }], 7)
    expect(results.get('a')).toEqual([4, 5, 6, 7, 8, 9, 10])
  })

  test('two runners with the same name are refused', async () => {
    const runner = { name: 'a', run: async () => 1 }
    await expect(turnAbout([runner, runner], 1)).rejects.toThrow('names of their own')
  })

  test('over as many rounds as there are runners each is first once', () => {
    const firsts = [0, 2, 4].map((round) => orderIn(round, ['a', 'b', 'c'])[0])
    expect(new Set(firsts).size).toBe(3)
    expect(orderIn(5, [])).toEqual([])
  })
})

describe('statistics', () => {
  test('interpolate between two values', () => {
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(spread([1, 2, 3, 4, 5])).toEqual({ median: 3, p25: 2, p75: 4 })
    const descending = Array.from({ length: 101 }, (_, index) => 100 - index)
    expect(percentiles(descending)).toEqual({ p50: 50, p99: 99, max: 100 })
    expect(() => median([])).toThrow(RangeError)
  })

  test('a caller in a queue waits for its own turn and for those of all others', () => {
    expect(waitsInTurn([1, 2, 3, 4], 1)).toEqual([1, 2, 3, 4])
    expect(waitsInTurn([1, 2, 3, 4, 5], 3)).toEqual([6, 9, 12])
    expect(sliceOfTurns([1, 2, 3], 64)).toEqual({ units: 3, time: 6, latencies: [6] })
  })

  test('calls that overlap are counted each, and all have ended', async () => {
    let running = 0
    let most = 0
    let calls = 0
    const call = async (): Promise<void> => {
      most = Math.max(most, ++running)
      await new Promise(setImmediate)
      calls++
      running--
    }
    const slice = await measureCalls(call, { callers: 5, milliseconds: 5, isBlocking: false })
    expect({ running, most }).toEqual({ running: 0, most: 5 })
    expect([slice.units, slice.latencies?.length]).toEqual([calls, calls])
  })

  test('a call that blocks after a promise is measured to its end', async () => {
    const call = async (): Promise<void> => {
      await Promise.resolve()
      const end = performance.now() + 5
      while (performance.now() < end);
    }
    const { latencies = [] } = await measureCalls(call, { callers: 1, milliseconds: 1, isBlocking: true })
    expect(latencies).toHaveLength(1)
    expect(latencies[0]).toBeGreaterThan(4.9e6)
  })

  test('an event loop that is blocked throughout is detected', async () => {
    const { result, watch } = await watchEventLoop(async () => {
      const end = performance.now() + 20
      while (performance.now() < end);
      return 'done'
    })
    expect(result).toBe('done')
    expect(watch.max).toBeGreaterThan(15e6)
    expect(watch.busy).toBeGreaterThan(0.9)
    const watches = [1, 2, 9].map((ms) => ({ p50: ms * 1e6, p99: ms * 1e6, max: ms * 1e6, busy: ms / 10 }))
    const { rows } = eventLoopFigures('', new Map([['peer', watches]]))
    expect(rows).toEqual([{ name: 'peer', cells: ['2.00', '2.00', '9.00', '20 %'] }])
  })

  test('a comparison relates the slices of the same round', () => {
    const entrants: Entrant[] = [
      { name: 'peer', role: 'peer', notes: [] },
      { name: 'library', role: 'library', notes: [] },
      { name: 'floor', role: 'floor', notes: [] },
    ]
    const slicesOf = (...times: number[]) => times.map((time) => ({ units: 2, time, latencies: [time] }))
    const slices = new Map([
      ['floor', slicesOf(2, 20, 200)],
      ['library', slicesOf(4, 40, 400)],
      ['peer', slicesOf(3, 60, 600)],
    ])
    const { rows, rounds } = compare({ label: '', unit: '' }, entrants, slices)
    expect(rounds).toBe(3)
    const figures = rows.map((row) => [row.name, row.time, row.ratio.median, row.versusLibrary.median])
    expect(figures).toEqual([
      ['floor', 10, 1, 0.5],
      ['library', 20, 2, 1],
      ['peer', 30, 3, 1.5],
    ])
    expect(rows.map(({ latency }) => latency?.max)).toEqual([200, 400, 600])
  })
})

describe('the command line', () => {
  const known = ['append', 'replay']

  test('names cases in any order, or none for all of them', () => {
    expect(parseArguments([], known).cases).toEqual(known)
    expect(parseArguments(['replay', 'append', 'replay'], known).cases).toEqual(known)
    expect(parseArguments(['--quick', 'replay'], known)).toMatchObject({ cases: ['replay'], isQuick: true })
  })

  test.each(['rpelay', '--qiuck', '--dir', '--render --quick', '--render append'])('refuses %s', (given) => {
    expect(() => parseArguments(given.split(' '), known)).toThrow(/\w/)
  })

  test('is written down without the directories of this machine', () => {
    const directories = ['--dir', join(tmpdir(), 'x'), '--out', join(tmpdir(), 'y')]
    const given = parseArguments(['--quick', ...directories], known)
    expect(commandFor('append', given)).toBe('npm run bench -- append --quick --dir DIRECTORY')
  })
})

describe('the report', () => {
  test('of nothing says so', () => {
    expect(resultsText([], [])).toMatch(/^# Results\n[^]*Nothing has been measured yet\.\n$/)
  })

  test('explains every peer that is ahead, and marks results as chance when rounds disagree', () => {
    const page = resultsText([sectionWith({ median: 0.9, p25: 0.8, p75: 0.95 })], [])
    expect(page).toContain("- peer takes 0.900 (0.800–0.950) of the library's time: it does less.")
    expect(page).toContain('| **library** | **2.00** (2.00–2.00) | 1.00 | 2.00 µs |')
    expect(resultsText([sectionWith({ median: 0.9, p25: 0.8, p75: 1.2 })], [])).toContain('may be chance')
    expect(resultsText([sectionWith({ median: 1.1, p25: 0.8, p75: 1.2 })], [])).not.toContain("of the library's time")
  })

  test('draws what a section has, or what it asks for of that', () => {
    const chart = { setOption: () => {}, renderToSVGString: () => '<svg ></svg>', dispose: () => {} }
    const echarts: Echarts = { init: () => chart }
    const section = sectionWith({ median: 1, p25: 1, p75: 1 })
    const latency = { p50: 1, p99: 2, max: 3 }
    const comparisons = section.comparisons.map((one) => ({
      ...one,
      rows: one.rows.map((row) => ({ ...row, latency })),
    }))
    const filesOf = (drawn: Section): string[] => drawSection(echarts, drawn).map(({ file }) => file)
    expect(filesOf({ ...section, comparisons })).toEqual(['plots/a-ratios.svg', 'plots/a-latency.svg'])
    expect(filesOf({ ...section, comparisons, plots: ['ratios'] })).toEqual(['plots/a-ratios.svg'])
  })

  test('replaces an earlier section with the same name', () => {
    const section = sectionWith({ median: 1, p25: 1, p75: 1 })
    const named = (name: string, seconds: number): Section => ({ ...section, name, seconds })
    const order = ['a', 'b', 'c']
    const sections = withSection([named('a', 1), named('c', 1)], named('b', 1), order)
    const after = withSection(sections, named('a', 2), order)
    expect(after.map(({ name, seconds }) => name + seconds)).toEqual(['a2', 'b1', 'c1'])
  })

  test('shows numbers with three digits', () => {
    const ratios = [0.0932, 0.9996, 1.187, 9.996, 34.44, 99.96, 1234].map(ratioText)
    expect(ratios).toEqual(['0.093', '1.00', '1.19', '10.0', '34.4', '100', '1234'])
    const times = [0.4, 830, 1240, 12_500_000, 2e9].map(timeText)
    expect(times).toEqual(['0.400 ns', '830 ns', '1.24 µs', '12.5 ms', '2.00 s'])
  })

  function sectionWith(versusLibrary: Spread): Section {
    const ratio = { median: 2, p25: 2, p75: 2 }
    const one = { median: 1, p25: 1, p75: 1 }
    const half = { median: 0.5, p25: 0.5, p75: 0.5 }
    const because = 'it does less'
    const rows = [
      { name: 'floor', role: 'floor' as const, time: 1000, ratio: one, versusLibrary: half, notes: [] },
      { name: 'library', role: 'library' as const, time: 2000, ratio, versusLibrary: one, notes: [] },
      { name: 'peer', role: 'peer' as const, time: 1900, ratio, versusLibrary, notes: [], because },
    ]
    const system = { kernel: 'linux', fileSystem: 'ext4', load: 0 }
    const machine = { node: 'v20', cpu: 'a', cores: 2, memory: '1 GiB', ...system }
    const comparisons = [{ label: 'size=1', unit: 'append', rounds: 3, rows }]
    const about = { name: 'a', title: 'A', method: [], date: '2026-01-01', seconds: 1, command: 'bench a' }
    return { ...about, machine, comparisons, figures: [], courses: [], participants: [], missing: [] }
  }
})

describe('what is measured', () => {
  test.each(['ascii', 'beyond ascii'] as const)('a record, %s, has exactly the requested number of bytes', (alphabet) => {
    for (const bytes of [100, 101, 150, 1023, 1024, 65_536]) {
      const line = JSON.stringify(syntheticRecord(7, bytes, alphabet))
      expect(Buffer.byteLength(line)).toBe(bytes)
    }
    expect(() => syntheticRecord(1, 20)).toThrow(RangeError)
  })

  test('changes have exactly the requested bytes, visit every key in turn, and always change the value', () => {
    const keys = 100
    const before = entriesOf(keys)
    const changes = Array.from({ length: keys }, (_, turn) => changeAt(keys + turn, keys))
    for (const change of changes) {
      expect(Buffer.byteLength(JSON.stringify(change))).toBe(changeBytes)
      expect(before[change.key]).not.toBe(change.value)
    }
    expect(changes.map(({ key }) => key).toSorted()).toEqual(Object.keys(before).toSorted())
    expect(Object.keys(before)).toHaveLength(keys)
  })

  test('the file system is that of the nearest mount, or of the last mount at the same place', () => {
    const mounts = ['/dev/a / ext4', 'tmpfs /tmp tmpfs', '/dev/b /tmp xfs', '/dev/c /a\\040b btrfs']
    const table = mounts.map((mount) => `${mount} rw 0 0\n`).join('')
    expect(mountedAt(table, '/tmpfoo')).toBe('ext4')
    expect(mountedAt(table, '/tmp/x')).toBe('xfs')
    expect(mountedAt(table, '/a b')).toBe('btrfs')
    expect(mountedAt('', '/')).toBe('unknown')
  })
})
