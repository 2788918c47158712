import { createHash } from 'node:crypto'

import { type Operation, SimulatedFileSystem, type TornVariant } from '../../src/testing/index.ts'
import { createRandom, type Random } from '../../src/testing/random.ts'
import { turn } from '../support/consume.ts'

/** Something that runs on a simulated file system and knows, at any moment, what it has been promised. */
export interface Workload<Expected> {
  readonly name: string
  /** Runs to its end. */
  run(files: SimulatedFileSystem): Promise<void>
  /**
   * What a crash at this moment may and may not leave. Called before each operation; the states are
   * judged when the
   * run has ended, so what a step decides only at its end may still be filled in then.
   */
  expected(): Expected
}

/**
 * Knows how to open what a crash has left and whether it may be so. The same for all workloads of one
 * module.
 */
export interface Oracle<Expected, Found> {
  /**
   * Opens a state, uses it, and tells what it held. Throws for whatever must hold of every state, wherever it
   * comes from. May change the state.
   */
  find(state: SimulatedFileSystem): Promise<Found>
  /**
   * Throws unless what was found is allowed.
   *
   * @param options.isHarsh whether the state may hold a write that lost its beginning, or garbage in
   * place of it.
   */
  check(found: Found, expected: Expected, options: StateKind): void
  /** Whether opening had something to repair: such a repair is then itself crashed at every operation. */
  hasRecovered(found: Found): boolean
  /** Opens a state and closes it: what is crashed then. */
  recover(state: SimulatedFileSystem): Promise<void>
  /** What a crash inside that recovery may leave. */
  expectedInside(expected: Expected, found: Found): Expected
}

/** What a state may hold besides what was written. */
export interface StateKind {
  readonly isHarsh: boolean
}

/** How much was looked at; a shrinking suite shows here. */
export interface CrashCounts {
  /** Operations before which the disk was crashed. */
  moments: number
  /**
   * States that were judged; one that comes up at two moments counts twice, since other things are
   * expected.
   */
  judged: number
  /** States that differ from all others in names or bytes; each was opened. */
  distinct: number
  /** States that were opened again because what they held had been forgotten; not counted as distinct. */
  reopened: number
  /** States of a killed process on a system that lives on. */
  killed: number
  /** Recoveries that were crashed in their turn, `recoveries[0]` of a workload, `[1]` of such a recovery, and so on. */
  readonly recoveries: number[]
}

export interface CrashOptions {
  readonly seed: number
  /** States to take before each operation, at most, for each group of torn variants. */
  readonly limit: number
  /** Of states that need recovery, one of so many is crashed inside it. @default 8 */
  readonly insideEvery?: number
  /** How deep recoveries are crashed inside recoveries; 0 crashes none, 1 those of the workload. @default 1 */
  readonly nesting?: number
  /** Says whether to take states at this moment. @default always */
  readonly isTaken?: () => boolean
  /**
   * Changes whenever the same visible and durable bytes may mean something else, such as after a
   * failed sync.
   */
  readonly epoch?: () => number
}

/** States a crash leaves when the interrupted write is cut, or its end never came: these must always heal. */
const mildVariants: readonly TornVariant[] = ['cut', 'zeros']
/** States with bytes that nobody wrote, or with the beginning of a write lost. */
const harshVariants: readonly TornVariant[] = ['head-lost', 'garbage']

interface Moment<Expected> {
  readonly operation: string
  readonly expected: Expected
  readonly mild: Iterable<SimulatedFileSystem>
  readonly harsh: Iterable<SimulatedFileSystem>
  readonly killed: SimulatedFileSystem
  readonly epoch: number
}

/** Runs workloads, crashes them before every operation, and judges every state. Counts over all its runs. */
export class CrashHarness<Expected, Found> {
  readonly counts: CrashCounts = { moments: 0, judged: 0, distinct: 0, reopened: 0, killed: 0, recoveries: [0, 0, 0] }
  readonly #oracle: Oracle<Expected, Found>
  /** Of every state there was, by names and bytes: some 80 bytes each, so a million of them fit. */
  readonly #seen = new Set<string>()
  /** What the newest of them held, which does not depend on how they came to be. The oldest is forgotten first. */
  readonly #found = new Map<string, Found>()

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
      // Both generators copy the disk now and make the states later, when the run has ended.
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
      // What a call that changes nothing is about to do makes no state that the one before it did not.
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
    // With nothing pending it is a state of the power failure, and judged already.
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
    // Nothing waits on a simulated disk, and what a weak reference led to in one turn of the event loop stays until
    // that turn ends: without an end now and then all that was ever opened would stay.
    if (known === undefined) await turn()
    const found = known ?? (await explained(where, state, () => this.#oracle.find(state.afterKill())))
    await explained(where, state, () => this.#oracle.check(found, expected, { isHarsh }))
    if (known !== undefined) return
    this.#remember(key, found)
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

  #remember(key: string, found: Found): void {
    this.#found.set(key, found)
    for (const oldest of this.#found.keys()) {
      if (this.#found.size <= rememberedStates) break
      this.#found.delete(oldest)
    }
  }
}

/** What one run comes upon again and again; a larger number costs memory and saves next to nothing. */
const rememberedStates = 20_000

interface RunOptions<Found> extends CrashOptions {
  readonly depth: number
  readonly random: Random
  /** What killed processes of this run left. */
  readonly killed: Map<string, Found>
}

/** Gives a failure the place it comes from and the files as they were. */
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

/** A state that must not be. */
export class CrashFinding extends Error {
  override readonly name = 'CrashFinding'
}

/** Every file on its own lines, as text. */
export function show(state: SimulatedFileSystem): string {
  const lines = [...state.snapshot()].map(
    ([path, bytes]) => `  ${path} ${JSON.stringify(bytes.toString('latin1'))}`,
  )
  return lines.join('\n')
}

/** The same text for the same names and bytes. */
export function keyOf(state: SimulatedFileSystem): string {
  const hash = createHash('sha1')
  for (const [path, bytes] of state.snapshot()) hash.update(`${path} ${bytes.length} `).update(bytes)
  return hash.digest('base64')
}

function describe({ index, operation, path, to }: Operation): string {
  return `operation ${index}, ${operation} of ${path}${to === undefined ? '' : ` to ${to}`}`
}
