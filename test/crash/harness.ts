import { createHash } from 'node:crypto'

import { type Operation, SimulatedFileSystem, type TornVariant } from '../../src/testing/index.ts'
import { createRandom, type Random } from '../../src/testing/random.ts'
import { turn } from '../support/consume.ts'

/**
 * A program that runs on a simulated file system and knows, at any moment, what it was promised.
 */
export interface Workload<Expected> {
  readonly name: string
  /** Runs the workload to its end. */
  run(files: SimulatedFileSystem): Promise<void>
  /**
   * What a crash at this moment may and may not leave. Called before each operation. The states are
   * judged after the run has ended, so a step may still fill in what it decides only at its end.
   */
  expected(): Expected
}

/**
 * Opens what a crash has left and decides whether that is allowed. All workloads of one module
 * share an oracle.
 */
export interface Oracle<Expected, Found> {
  /**
   * Opens a state, uses it, and returns what it held. May change the state.
   *
   * @throws if the state breaks a rule that holds for every state, wherever it comes from.
   */
  find(state: SimulatedFileSystem): Promise<Found>
  /**
   * Compares what was found with what was expected.
   *
   * @param options.isHarsh whether the state may hold a write that lost its beginning, or garbage
   * in place of it.
   * @throws if the found content is not allowed.
   */
  check(found: Found, expected: Expected, options: StateKind): void
  /** Whether opening repaired something. Such a repair is itself crashed at every operation. */
  hasRecovered(found: Found): boolean
  /** Opens a state and closes it. This is the run that is crashed to test recovery. */
  recover(state: SimulatedFileSystem): Promise<void>
  /** What a crash inside that recovery may leave. */
  expectedInside(expected: Expected, found: Found): Expected
}

/** What a state may hold besides what was written. */
export interface StateKind {
  readonly isHarsh: boolean
}

/** How much was tested. The tests compare these counts with a floor, so a shrinking suite fails. */
export interface CrashCounts {
  /** Operations before which the disk was crashed. */
  moments: number
  /**
   * States that were judged. A state that comes up at two moments counts twice, since the
   * expectations differ.
   */
  judged: number
  /** States that differ from all others in names or bytes. Each was opened. */
  distinct: number
  /**
   * States opened again because the record of their content was dropped. Not counted as distinct.
   */
  reopened: number
  /** States after the process was killed while the system kept running. */
  killed: number
  /**
   * Recoveries that were themselves crashed: `recoveries[0]` counts recoveries of a workload's
   * states, `recoveries[1]` counts recoveries inside those, and so on.
   */
  readonly recoveries: number[]
}

export interface CrashOptions {
  readonly seed: number
  /** The most states to take before each operation, for each group of torn variants. */
  readonly limit: number
  /** One in this many states that need recovery is crashed inside that recovery. @default 8 */
  readonly insideEvery?: number
  /**
   * How many levels of recovery are crashed: 0 crashes none, 1 crashes recoveries of the workload's
   * states. @default 1
   */
  readonly nesting?: number
  /** Whether to take states at this moment. @default always */
  readonly isTaken?: () => boolean
  /**
   * A number that changes whenever the same visible and durable bytes may mean something else, such
   * as after a failed sync.
   */
  readonly epoch?: () => number
}

/**
 * Torn variants in which the interrupted write is cut or its end never came. These must always
 * heal.
 */
const mildVariants: readonly TornVariant[] = ['cut', 'zeros']
/** Torn variants with bytes that were never written, or with the beginning of a write lost. */
const harshVariants: readonly TornVariant[] = ['head-lost', 'garbage', 'blocks']

interface Moment<Expected> {
  readonly operation: string
  readonly expected: Expected
  readonly mild: Iterable<SimulatedFileSystem>
  readonly harsh: Iterable<SimulatedFileSystem>
  readonly killed: SimulatedFileSystem
  readonly epoch: number
}

/**
 * Runs workloads, crashes them before every operation, and judges every state. Its counts cover all
 * its runs.
 */
export class CrashHarness<Expected, Found> {
  readonly counts: CrashCounts = { moments: 0, judged: 0, distinct: 0, reopened: 0, killed: 0, recoveries: [0, 0, 0] }
  readonly #oracle: Oracle<Expected, Found>
  /** Keys of all states seen, by names and bytes. A key takes about 80 bytes, so a million fit. */
  readonly #seen = new Set<string>()
  /** What states held. This does not depend on how a state came to be. */
  readonly #found = new NewestEntries<Found>()

  constructor(oracle: Oracle<Expected, Found>) {
    this.#oracle = oracle
  }

  async run(
    workload: Workload<Expected>,
    options: CrashOptions,
    files: SimulatedFileSystem = new SimulatedFileSystem(),
  ): Promise<void> {
    await this.#run(workload, files, { ...options, depth: 0 })
  }

  async #run(
    workload: Workload<Expected>,
    files: SimulatedFileSystem,
    options: CrashOptions & { readonly depth: number },
  ): Promise<void> {
    const { seed, limit } = options
    const moments: Array<Moment<Expected>> = []
    const take = (operation: string): void => {
      // Both generators copy the disk now and build the states later, when the run has ended.
      moments.push({
        operation,
        expected: workload.expected(),
        mild: files.crashStates({ seed, limit, tornVariants: mildVariants }),
        harsh: files.crashStates({ seed, limit, tornVariants: harshVariants }),
        killed: files.afterKill(),
        epoch: options.epoch?.() ?? 0,
      })
    }
    const stop = files.onOperation((operation) => {
      if (options.isTaken?.() === false) return
      // Before a call that changes nothing, a crash leaves the same states as before the previous
      // call.
      if (operation.changesDisk || operation.operation === 'close') take(describe(operation))
    })
    try {
      await workload.run(files)
    } finally {
      stop()
    }
    take('the end')
    const random = createRandom(seed, options.depth)
    const killed = new Map<string, Found>()
    for (const moment of moments) await this.#judgeMoment(workload, moment, { ...options, random, killed })
  }

  async #judgeMoment(
    workload: Workload<Expected>,
    moment: Moment<Expected>,
    options: RunOptions<Found>,
  ): Promise<void> {
    const { operation, expected, killed } = moment
    const where = `${workload.name}, seed ${options.seed}, before ${operation}`
    this.counts.moments += 1
    for (const state of moment.mild) await this.#judge(state, { where, expected, isHarsh: false }, options)
    for (const state of moment.harsh) await this.#judge(state, { where, expected, isHarsh: true }, options)
    const [visible, durable] = [keyOf(killed), keyOf(killed.afterCrash({ keep: 'none' }))]
    // With nothing pending, a kill leaves a state that a power failure leaves too. It was judged
    // above.
    if (visible === durable) return
    const key = `${visible} ${durable} ${moment.epoch}`
    const whereKilled = `${where}, killed`
    const found =
      options.killed.get(key) ??
      (await explained(whereKilled, killed, () => this.#oracle.find(killed.afterKill())))
    options.killed.set(key, found)
    this.counts.killed += 1
    await explained(whereKilled, killed, () =>
      this.#oracle.check(found, expected, { isHarsh: false }),
    )
  }

  async #judge(
    state: SimulatedFileSystem,
    moment: { readonly where: string; readonly expected: Expected; readonly isHarsh: boolean },
    options: RunOptions<Found>,
  ): Promise<void> {
    const { where, expected, isHarsh } = moment
    this.counts.judged += 1
    const key = keyOf(state)
    const known = this.#found.get(key)
    // A simulated disk never waits, and an object dereferenced through a WeakRef stays alive until
    // the current turn of the event loop ends. Without a turn here, every store ever opened would
    // stay in memory.
    if (known === undefined) await turn()
    const found = known ?? (await explained(where, state, () => this.#oracle.find(state.afterKill())))
    await explained(where, state, () => this.#oracle.check(found, expected, { isHarsh }))
    if (known !== undefined) return
    this.#found.set(key, found)
    if (this.#seen.has(key)) {
      this.counts.reopened += 1
      return
    }
    this.#seen.add(key)
    this.counts.distinct += 1
    const { depth, nesting = 1, insideEvery = 8 } = options
    if (depth >= nesting || options.random.below(insideEvery) > 0 || !this.#oracle.hasRecovered(found)) return
    this.counts.recoveries[depth] = (this.counts.recoveries[depth] ?? 0) + 1
    const inside = this.#oracle.expectedInside(expected, found)
    const recovery: Workload<Expected> = {
      name: `recovery after (${where})`,
      run: (files) => this.#oracle.recover(files),
      expected: () => inside,
    }
    const { seed, limit } = options
    await this.#run(recovery, state.afterKill(), { seed, limit, nesting, insideEvery, depth: depth + 1 })
  }
}

/**
 * The states that one run meets repeatedly. A larger number costs memory and saves almost nothing.
 */
const rememberedStates = 20_000

/** Values by the key of a state, of the newest states only. */
class NewestEntries<Value> {
  readonly #entries = new Map<string, Value>()

  get(key: string): Value | undefined {
    return this.#entries.get(key)
  }

  set(key: string, value: Value): void {
    this.#entries.set(key, value)
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= rememberedStates) break
      this.#entries.delete(oldest)
    }
  }
}

/**
 * What follows after an opening, tried out once for equal openings: those that reported the same
 * recovery and left equal disks. Many states differ only in what an opening removes or repairs.
 */
export class Continuations<Result> {
  readonly #known = new NewestEntries<Result>()

  /** Returns the result of the task, and whether it is known from an equal opening. */
  async of(
    opening: { readonly state: SimulatedFileSystem; readonly recovery: unknown },
    task: () => Promise<Result>,
  ): Promise<{ readonly result: Result; readonly isKnown: boolean }> {
    const names = keyOf(opening.state)
    // Disks with equal names and bytes are equal only if nothing is pending.
    const isEqual = keyOf(opening.state.afterCrash({ keep: 'none' })) === names
    if (!isEqual) return { result: await task(), isKnown: false }
    const key = `${names} ${JSON.stringify(opening.recovery)}`
    const known = this.#known.get(key)
    if (known !== undefined) return { result: known, isKnown: true }
    const result = await task()
    this.#known.set(key, result)
    return { result, isKnown: false }
  }
}

interface RunOptions<Found> extends CrashOptions {
  readonly depth: number
  readonly random: Random
  /** What killed processes of this run left, by key. */
  readonly killed: Map<string, Found>
}

/** Adds to a failure the moment it comes from and the files as they were. */
async function explained<T>(
  where: string,
  state: SimulatedFileSystem,
  task: () => T | Promise<T>,
): Promise<T> {
  try {
    return await task()
  } catch (error) {
    if (error instanceof CrashFinding) throw error
    throw new CrashFinding(`${where}:\n${String(error)}\nThe disk was:\n${show(state)}`, { cause: error })
  }
}

/** A state that breaks a promise. */
export class CrashFinding extends Error {
  override readonly name = 'CrashFinding'
}

/** Every file on its own line, as text. */
export function show(state: SimulatedFileSystem): string {
  const lines = [...state.snapshot()].map(
    ([path, bytes]) => `  ${path} ${JSON.stringify(bytes.toString('latin1'))}`,
  )
  return lines.join('\n')
}

/** A hash of all names and bytes: equal for states with the same names and bytes. */
export function keyOf(state: SimulatedFileSystem): string {
  const hash = createHash('sha1')
  for (const [path, bytes] of state.snapshot()) hash.update(`${path} ${bytes.length} `).update(bytes)
  return hash.digest('base64')
}

function describe({ index, operation, path, to }: Operation): string {
  return `operation ${index}, ${operation} of ${path}${to === undefined ? '' : ` to ${to}`}`
}
