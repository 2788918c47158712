import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { describe, expect, onTestFinished, test } from 'vitest'

import { type JournalEntry, MiniStore } from '../../../src/index.ts'
import { collect } from '../../support/consume.ts'
import { scaled } from '../../support/crash-scale.ts'
import { pickSeed, seededRandom } from '../../support/seeded-random.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { KillableProcess } from '../processes/kill-process.ts'

const processes = 8
/**
 * How often a single process is killed. After every `killsPerBout` of these kills, all eight
 * processes are killed at once.
 */
const kills = scaled(16, 160)
const killsPerBout = 8

/**
 * What `processes/contender.js` reports. Times are nanoseconds of a clock that all processes share.
 */
type ContenderReport =
  | {
      readonly type: 'begin'
      readonly turn: number
      readonly at: string
      /** Attempts refused with `ERR_MINISTORE_LOCKED` since the previous turn. */
      readonly refused: number
      /** The process that left the side file; null if there was no side file. */
      readonly leftBy: string | null
      readonly last: number
    }
  | { readonly type: 'appended'; readonly turn: number; readonly sequence: number }
  | { readonly type: 'end'; readonly turn: number; readonly at: string }

/** One process, from its start until it was killed. */
interface Contender {
  readonly number: number
  readonly process: KillableProcess<ContenderReport>
  /** When SIGKILL was sent. Until then the process was certainly alive. */
  killedAt: bigint | undefined
}

/**
 * A time in which one process held the journal. It starts no earlier and ends no later than the
 * process held it.
 */
interface Turn {
  readonly contender: Contender
  readonly turn: number
  readonly begin: bigint
  readonly end: bigint
  readonly isKilled: boolean
  readonly leftBy: string | null
  readonly last: number
  readonly sequences: number[]
}

interface Stored {
  readonly contender: number
  readonly turn: number
}

describe.each([
  { what: 'lock contention', removesLockFile: false },
  { what: 'lock contention, lock file removed', removesLockFile: true },
])('$what', ({ what, removesLockFile }) => {
  test(`${processes} processes that compete for a journal never own it at the same time, through ${kills} kills`, { timeout: scaled(120_000, 3_000_000) }, async () => {
    const seed = pickSeed(what)
    const random = seededRandom(seed)
    const path = join(await temporaryDirectory(), 'state/journal.jsonl')
    await mkdir(dirname(path))
    const arena = new Arena(path, random, removesLockFile)
    onTestFinished(() => arena.killAll())
    const known = new Map<number, Stored>()
    const start = performance.now()
    let checkedRecords = 0

    for (let killed = 0; killed < kills; killed += killsPerBout) {
      await arena.fill()
      for (let count = 0; count < killsPerBout; count++) {
        await arena.killOne()
        await arena.fill()
      }
      await arena.killAll()
      checkedRecords += checkFound(await openAtOnce(path), arena.turns(), known)
    }

    const turns = arena.turns()
    checkOverlap(turns)
    checkSideFiles(turns, arena.contenders)
    const owners = new Set(turns.map(({ contender }) => contender.number)).size
    const cutShort = turns.filter(({ isKilled }) => isKilled).length
    const appends = turns.reduce((sum, { sequences }) => sum + sequences.length, 0)
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    console.log(
      `${what}: ${arena.contenders.length} processes in ${seconds} s, ` +
        `all of them killed; ${turns.length} turns of ${owners} owners, ${cutShort} cut short by the kill, ` +
        `${appends} appends, ${arena.refused()} refusals, ` +
        `${turns.filter(({ leftBy }) => leftBy !== null).length} side files left by the dead, ` +
        `${checkedRecords} records compared`,
    )
    // Without these floors, there might have been no contention, or no kill of a process that held
    // the lock.
    expect(cutShort).toBeGreaterThan(kills / 4)
    expect(arena.refused()).toBeGreaterThan(kills)
    expect(owners).toBeGreaterThan(processes)
  })
})

/** The processes, and when each was killed. */
class Arena {
  readonly contenders: Contender[] = []
  readonly #path: string
  readonly #random: (limit: number) => number
  readonly #removesLockFile: boolean
  #failure: Error | undefined
  /** Called for each report. A caller that waits for a report listens here. */
  #onReport: (contender: Contender, report: ContenderReport) => void = () => {}

  constructor(path: string, random: (limit: number) => number, removesLockFile: boolean) {
    this.#path = path
    this.#random = random
    this.#removesLockFile = removesLockFile
  }

  /** Starts as many processes as are missing. */
  async fill(): Promise<void> {
    const missing = processes - this.#living().length
    await Promise.all(Array.from({ length: missing }, () => this.#start()))
  }

  /**
   * Kills one process. Mostly this is the process that has just become the owner, a random moment
   * later. Otherwise it is any process, which may own the journal or be opening, closing or
   * waiting. That a new owner appears at all shows that earlier kills freed the lock.
   */
  async killOne(): Promise<void> {
    const owner = await this.#nextOwner()
    const living = this.#living()
    const victim = this.#random(4) > 0 ? owner : (living[this.#random(living.length)] as Contender)
    const until = performance.now() + this.#random(2000) / 1000
    while (performance.now() < until);
    await kill(victim)
    if (this.#failure !== undefined) throw this.#failure
  }

  async killAll(): Promise<void> {
    await Promise.all(this.#living().map((contender) => kill(contender)))
    if (this.#failure !== undefined) throw this.#failure
  }

  /** All turns so far, in the order in which they began. */
  turns(): Turn[] {
    const turns = this.contenders.flatMap((contender) => turnsOf(contender))
    return turns.toSorted((one, other) => (one.begin < other.begin ? -1 : 1))
  }

  refused(): number {
    return this.contenders
      .flatMap(({ process: { reports } }) => reports)
      .reduce((sum, report) => sum + (report.type === 'begin' ? report.refused : 0), 0)
  }

  async #start(): Promise<void> {
    const child = new KillableProcess<ContenderReport>('contender.js')
    const contender: Contender = { number: this.contenders.length + 1, process: child, killedAt: undefined }
    this.contenders.push(contender)
    child.onReport = (report) => {
      if (report.type === 'ready') return
      if (report.type === 'failed') this.#failure ??= new Error(report.message)
      else this.#onReport(contender, report)
    }
    await child.start({
      path: this.#path,
      sideFile: join(dirname(this.#path), '../owner'),
      contender: contender.number,
      seed: this.#random(2 ** 32),
      options: { maxBytesPerSegment: 16 * 1024 },
      removesLockFile: this.#removesLockFile,
    })
  }

  #nextOwner(): Promise<Contender> {
    return new Promise((resolve) => {
      this.#onReport = (contender, { type }) => {
        if (type === 'begin' && contender.killedAt === undefined) resolve(contender)
      }
    })
  }

  #living(): Contender[] {
    return this.contenders.filter(({ killedAt }) => killedAt === undefined)
  }
}

async function kill(contender: Contender): Promise<void> {
  contender.killedAt = process.hrtime.bigint()
  await contender.process.kill()
}

/**
 * The turns of a process, from its reports. A turn without an end lasted at least until the kill.
 */
function turnsOf(contender: Contender): Turn[] {
  const { reports } = contender.process
  return reports.flatMap((report) => {
    if (report.type !== 'begin') return []
    const { turn, leftBy, last } = report
    const end = reports.find((other) => other.type === 'end' && other.turn === turn)
    const sequences = reports.flatMap((other) =>
      other.type === 'appended' && other.turn === turn ? [other.sequence] : [],
    )
    return [
      {
        contender,
        turn,
        leftBy,
        last,
        sequences,
        begin: BigInt(report.at),
        end: end?.type === 'end' ? BigInt(end.at) : (contender.killedAt ?? BigInt(report.at)),
        isKilled: end === undefined,
      },
    ]
  })
}

/** Checks that each turn ends before the next begins. The turns are sorted. */
function checkOverlap(turns: readonly Turn[]): void {
  for (const [index, turn] of turns.entries()) {
    const next = turns[index + 1]
    if (next !== undefined && next.begin < turn.end) {
      expect.fail(`Two owners: ${describeTurn(turn)} and ${describeTurn(next)}`)
    }
    let last = turn.last
    // No other process writes during a turn.
    for (const sequence of turn.sequences) expect(sequence, describeTurn(turn)).toBe(++last)
  }
}

/** Checks that every side file found by an owner was left by a process killed earlier. */
function checkSideFiles(turns: readonly Turn[], contenders: readonly Contender[]): void {
  for (const turn of turns) {
    if (turn.leftBy === null) continue
    const by = contenders.find(({ number }) => String(number) === turn.leftBy)
    // A kill between creating the file and writing into it leaves the file empty.
    if (turn.leftBy === '') continue
    expect(by?.killedAt, `${describeTurn(turn)} found the file of ${turn.leftBy}`).toBeLessThan(turn.begin)
  }
}

/** Opens the journal with a single attempt, right after every other process is gone. */
async function openAtOnce(path: string): Promise<Array<JournalEntry<Stored>>> {
  await using store = await MiniStore.open<Stored>(path)
  return await collect(store.entries())
}

/**
 * Checks that every acknowledged record that was not truncated is there, with its number and its
 * owner. Turns do not mix, and each turn has at most one record more than were acknowledged.
 */
function checkFound(
  entries: ReadonlyArray<JournalEntry<Stored>>,
  turns: readonly Turn[],
  known: Map<number, Stored>,
): number {
  const acknowledged = new Map<number, Stored>()
  for (const { contender, turn, sequences } of turns) {
    for (const sequence of sequences) acknowledged.set(sequence, { contender: contender.number, turn })
  }
  const ownerTurns = new Set<string>()
  let current = ''
  for (const { sequence, record } of entries) {
    const expected = acknowledged.get(sequence) ?? known.get(sequence)
    if (expected !== undefined) {
      const { contender, turn } = expected
      expect(record, `record ${sequence}`).toMatchObject({ contender, turn })
    }
    known.set(sequence, record)
    const key = `${record.contender} ${record.turn}`
    if (key === current) continue
    expect(ownerTurns, `the turn ${key} is torn apart at ${sequence}`).not.toContain(key)
    ownerTurns.add(key)
    current = key
  }
  const last = Math.max(0, ...acknowledged.keys())
  // The last turn's owner may have had one record in flight.
  expect(entries.at(-1)?.sequence ?? 0).toBeGreaterThanOrEqual(last)
  // No process truncates within the last hundred records.
  expect(entries.at(0)?.sequence ?? 1).toBeLessThanOrEqual(Math.max(1, last - 99))
  const unacknowledged = new Map<string, number>()
  for (const { sequence, record } of entries) {
    if (acknowledged.has(sequence)) continue
    const key = `${record.contender} ${record.turn}`
    unacknowledged.set(key, (unacknowledged.get(key) ?? 0) + 1)
  }
  for (const [key, count] of unacknowledged) expect(count, `records in flight in turn ${key}`).toBe(1)
  return entries.length
}

function describeTurn({ contender, turn, begin, end }: Turn): string {
  return `turn ${turn} of process ${contender.number} (${begin} to ${end})`
}
