import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { measureCalls, sliceOfTurns } from '../calls.ts'
import { compare, type Entrant, entrantOf, participantOf, type Slice } from '../comparison.ts'
import type { Appendable, Log } from '../contestants/contestant.ts'
import { appenders, loadAll } from '../contestants/index.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { eventLoopFigures, watchEventLoop } from '../event-loop.ts'
import { type Compiled, compileFloor, compileRustCrate, runProgram } from '../floor/programs.ts'
import type { Comparison, Figures } from '../results.ts'
import { type Runner, warmTurnAbout } from '../turn-about.ts'
import type { Case, Context } from './case.ts'

export const appendCase: Case = {
  name: 'append',
  title: 'Durable append',
  method: [
    'Every append is on stable storage before its caller goes on. Each contestant appends for a slice of ' +
      'time to a new file, one after another, for several rounds; the order changes from round to round. ' +
      '`ratio` is the time of one append (with several callers: of the slice, divided by its appends) over ' +
      'that of the floor in the same round. Latency is what one caller waits, of all rounds together. Three ' +
      'rounds go before those that count. Between slices only young garbage is collected, and the bench runs ' +
      'with `--no-flush-bytecode`: a whole collection would make V8 discard the code of the contestants that ' +
      'are idle, and each slice would begin like a program that has just started.',
    'The floor is a C program, `write` and `fdatasync` in a loop (where there is no compiler: the same in ' +
      'Node, synchronous). It serves one caller. For more callers, and for contestants that block the event ' +
      'loop, each caller is assumed to wait for its turn. A contestant that blocks gets a free turn of the ' +
      'loop after each append, which is not counted.',
    'The Rust crate is a program of its own too: its append, transcribed (bench/floor/rust/append.rs names the ' +
      'source), which calls `fsync`, on the crates that Debian packages. SQLite appends to a new database ' +
      'whose write-ahead log grows with each commit, and once more to one whose log was written before and ' +
      'is used again, so that its commits overwrite bytes that exist.',
    'Event loop delay is how much later than it should a timer of 1 ms fires while one contestant ' +
      'appends; *busy* is the share of time in which the loop did not wait for events; medians of the ' +
      'rounds, and the worst of all. Hypercore (10.38, 11.0) is not here because no way was found to have it ' +
      'sync each append: under strace, 100 awaited appends made no further `fsync` or `fdatasync`.',
  ],
  async run(context) {
    const { loaded, missing } = await loadAll(appenders)
    const [floor, rustCrate] = [await compileFloor(), await compileRustCrate()]
    const uncompiled = Object.entries({ 'C floor': floor, [rustName]: rustCrate }).flatMap(([name, result]) =>
      'missing' in result ? [{ name, reason: result.missing }] : [],
    )
    const milliseconds = context.isQuick ? 10 : 300
    const rounds = context.isQuick ? 1 : 7
    const comparisons: Comparison[] = []
    for (const bytes of [100, 1024, 65_536]) {
      for (const callers of [1, 64]) {
        const trial = { context, floor, rustCrate, contestants: loaded, bytes, callers, milliseconds, rounds }
        context.progress(labelOf(trial))
        comparisons.push(await compareAppends(trial))
      }
    }
    const delays: Figures[] = []
    for (const callers of [1, 64]) {
      const trial = { context, floor, rustCrate, contestants: loaded, bytes: 100, callers, milliseconds, rounds }
      context.progress(`event loop, ${labelOf(trial)}`)
      delays.push(await watchAppends(trial))
    }
    return {
      comparisons,
      figures: delays,
      participants: [...loaded.map(participantOf), ...('program' in rustCrate ? [rustParticipant] : [])],
      missing: [...missing, ...uncompiled],
    }
  },
}

const rustName = 'Rust crate ministore'

const rustParticipant = {
  name: rustName,
  version: '0.1.5, transcribed',
  promise: 'in a JSON Lines file: one `fsync` each, in call order',
}

interface Trial {
  readonly context: Context
  readonly floor: Compiled
  readonly rustCrate: Compiled
  readonly contestants: readonly Appendable[]
  readonly bytes: number
  readonly callers: number
  readonly milliseconds: number
  readonly rounds: number
}

function labelOf({ bytes, callers }: Trial): string {
  return `record=${bytes < 1024 ? `${bytes}B` : `${bytes / 1024}KiB`} callers=${callers}`
}

async function compareAppends(trial: Trial): Promise<Comparison> {
  const { floor, rustCrate, contestants, callers, rounds } = trial
  const hasCFloor = 'program' in floor
  const entrants: Entrant[] = []
  const runners: Array<Runner<Slice>> = []
  if (hasCFloor) {
    entrants.push({ name: 'C, write + fdatasync', role: 'floor', notes: ['one caller at a time'] })
    runners.push({ name: 'C, write + fdatasync', run: () => programSlice(floor.program, trial) })
  }
  for (const contestant of contestants) {
    const isFloor = !hasCFloor && contestant.name === 'Node, writeSync + fdatasyncSync'
    const role = contestant.name.startsWith('ministore') ? 'library' : isFloor ? 'floor' : 'peer'
    entrants.push(entrantOf(contestant, role, callers))
    runners.push({ name: contestant.name, run: () => appendSlice(contestant, trial) })
    if (contestant.name === 'ministore' && callers > 1) {
      const name = `ministore, appendAll of ${callers}`
      entrants.push({ name, role, notes: ['one sync for all callers, who wait together'] })
      runners.push({ name, run: () => appendAllSlice(contestant, trial) })
    }
  }
  if ('program' in rustCrate) {
    entrants.push({ name: rustName, role: 'peer', notes: ['a program of its own, one caller at a time'] })
    runners.push({ name: rustName, run: () => programSlice(rustCrate.program, trial) })
  }
  return compare({ label: labelOf(trial), unit: 'append' }, entrants, await warmTurnAbout(runners, rounds))
}

async function programSlice(program: string, { context, bytes, callers, milliseconds }: Trial): Promise<Slice> {
  const path = join(context.directory, 'journal')
  // Each record is stored as a line, and the line feed adds one byte.
  const durations = await runProgram(program, { path, bytes: bytes + 1, milliseconds })
  await rm(path)
  return sliceOfTurns(durations, callers)
}

async function appendSlice(contestant: Appendable, trial: Trial): Promise<Slice> {
  return withLog(contestant, trial, (log, record) =>
    measureCalls(() => log.append(record), { ...trial, isBlocking: contestant.blocksEventLoop }),
  )
}

/** Appends one record per caller in a single call, as an application would to share one sync. */
async function appendAllSlice(contestant: Appendable, trial: Trial): Promise<Slice> {
  return withLog(contestant, trial, async (log, record) => {
    const records = Array.from({ length: trial.callers }, () => record)
    const options = { ...trial, callers: 1, isBlocking: contestant.blocksEventLoop }
    const slice = await measureCalls(() => log.appendAll(records), options)
    return { ...slice, units: slice.units * trial.callers }
  })
}

/** Runs an action on a new store after five warm-up appends, and removes the store afterwards. */
async function withLog<Result>(
  contestant: Appendable,
  { context, bytes }: Trial,
  action: (log: Log, record: unknown) => Promise<Result>,
): Promise<Result> {
  const directory = join(context.directory, 'store')
  await mkdir(directory)
  const log = await contestant.open(join(directory, 'log'))
  try {
    const record = syntheticRecord(1, bytes)
    for (let warmUp = 0; warmUp < 5; warmUp++) await log.append(record)
    return await action(log, record)
  } finally {
    await log.close()
    await rm(directory, { recursive: true })
  }
}

async function watchAppends(trial: Trial): Promise<Figures> {
  const runners = trial.contestants.map((contestant) => ({
    name: contestant.name,
    run: () =>
      withLog(contestant, trial, async (log, record) => {
        const options = { ...trial, isBlocking: contestant.blocksEventLoop }
        return (await watchEventLoop(() => measureCalls(() => log.append(record), options))).watch
      }),
  }))
  const label = `event loop while appending, ${labelOf(trial)}`
  return eventLoopFigures(label, await warmTurnAbout(runners, trial.rounds))
}
