import { normalisePath } from './disk.ts'
import { isFileCall, type Operation, type OperationName, type OperationRequest } from './operation.ts'
import { systemError, type SystemErrorCode } from './system-error.ts'

/** Which operations a fault hits. Every field that is given must fit. */
export interface OperationMatch {
  /** Names of operations. @default all */
  readonly operation?: OperationName | readonly OperationName[]
  /** The whole path, or a pattern found in it; of a rename, either path may fit. @default all */
  readonly path?: string | RegExp
  /** The first of the fitting operations to hit: 1 is the first one from now on. @default 1 */
  readonly nth?: number
  /** How many fitting operations to hit from there on. @default 1 */
  readonly times?: number | 'always'
}

/** Which writes `SimulatedFileSystem.shortWriteOn` cuts short. */
export interface ShortWriteMatch extends Omit<OperationMatch, 'operation'> {
  /** How many bytes are written, if more are asked for: 0 or more. */
  readonly bytes: number
}

/** Options of `SimulatedFileSystem.failOn`. */
export interface FaultOptions {
  /**
   * A write that is to fail first writes this many bytes (of those asked for) and says so; the writes after
   * it fail. So a disk fills up. Other operations are not changed by it. @default no bytes: the first write
   * fails at once
   */
  readonly bytesFirst?: number
  /**
   * Whether a failed `sync`, `dataSync` or `syncDirectory` loses the pending changes: they stay visible, no
   * later sync makes them durable, and a crash may undo them. So does Linux with the pages of a file
   * ("fsyncgate", 2018); of names a journaling file system keeps account, or it goes read-only.
   * @default true for `sync` and `dataSync`, false for `syncDirectory`
   */
  readonly dropsPending?: boolean
}

/** A fault that was set. */
export interface Fault {
  /** How many operations it has changed so far. A test that expects a fault checks that it came. */
  readonly hits: number
  /** Ends it. */
  remove(): void
}

/** What a fault does to an operation. */
export interface FaultEffect {
  readonly error?: Error
  readonly dropsPending?: boolean
  /** Write no more than this many bytes. */
  readonly maxBytes?: number
}

type Match = OperationMatch | ((operation: Operation) => boolean)

/** The faults that are set. An operation that several of them hit gets the one that was set first. */
export class Faults {
  readonly #rules = new Set<(operation: Operation) => FaultEffect | undefined>()

  fail(match: Match, error: SystemErrorCode | Error, options: FaultOptions = {}): Fault {
    const { bytesFirst, dropsPending } = options
    if (bytesFirst !== undefined) checkCount('bytesFirst', bytesFirst, 0)
    // An unknown name must fail here and not when the fault strikes.
    if (typeof error === 'string') systemError(error, 'write')
    const times = timesOf(match)
    let shortWrites = 0
    return this.#add(match, (operation, ordinal) => {
      if (ordinal === 1 && bytesFirst !== undefined && operation.operation === 'write') {
        shortWrites = 1
        return { maxBytes: bytesFirst }
      }
      if (ordinal - shortWrites > times) return undefined
      return {
        error: typeof error === 'string' ? errorOf(error, operation) : error,
        dropsPending: dropsPending ?? operation.operation !== 'syncDirectory',
      }
    })
  }

  shorten({ bytes, ...match }: ShortWriteMatch): Fault {
    checkCount('bytes', bytes, 0)
    const times = timesOf(match)
    return this.#add({ ...match, operation: 'write' }, (_, ordinal) =>
      ordinal > times ? undefined : { maxBytes: bytes },
    )
  }

  clear(): void {
    this.#rules.clear()
  }

  effectOn(operation: Operation): FaultEffect | undefined {
    let effect: FaultEffect | undefined
    // Every rule sees every operation, so that its count is right whatever the others do.
    for (const rule of this.#rules) {
      const mine = rule(operation)
      effect ??= mine
    }
    return effect
  }

  /** `strike` gets the fitting operations from the nth on, with 1 for the nth itself. */
  #add(match: Match, strike: (operation: Operation, ordinal: number) => FaultEffect | undefined): Fault {
    const fits = typeof match === 'function' ? match : matcherOf(match)
    const nth = typeof match === 'function' ? 1 : (match.nth ?? 1)
    checkCount('nth', nth, 1)
    let fitting = 0
    let hits = 0
    const rule = (operation: Operation): FaultEffect | undefined => {
      if (!fits(operation)) return undefined
      fitting += 1
      const effect = fitting < nth ? undefined : strike(operation, fitting - nth + 1)
      if (effect !== undefined) hits += 1
      return effect
    }
    this.#rules.add(rule)
    return {
      get hits() {
        return hits
      },
      remove: () => {
        this.#rules.delete(rule)
      },
    }
  }
}

/** The error of a system call, as it would come for this operation. */
export function errorOf(code: SystemErrorCode, { syscall, path, to }: Operation): NodeJS.ErrnoException {
  return systemError(code, syscall, isFileCall(syscall) ? {} : { path, to })
}

function timesOf(match: Match): number {
  const times = typeof match === 'function' ? 'always' : (match.times ?? 1)
  if (times === 'always') return Infinity
  checkCount('times', times, 1)
  return times
}

function matcherOf(match: OperationMatch): (candidate: Operation) => boolean {
  const { operation, path } = match
  const unknown = Object.keys(match).find((key) => !['operation', 'path', 'nth', 'times'].includes(key))
  if (unknown !== undefined) throw new TypeError(`Unknown field \`${unknown}\` of a fault`)
  const names = operation === undefined ? undefined : new Set<string>([operation].flat())
  const fits =
    typeof path === 'string'
      ? (candidate: string) => candidate === normalisePath(path)
      : (candidate: string) => path === undefined || candidate.search(path) !== -1
  return (candidate) =>
    (names === undefined || names.has(candidate.operation)) &&
    (fits(candidate.path) || (candidate.to !== undefined && fits(candidate.to)))
}

function checkCount(name: string, count: number, minimum: number): void {
  if (Number.isSafeInteger(count) && count >= minimum) return
  throw new TypeError(`Expected \`${name}\` to be a whole number of ${minimum} or more, got ${count}`)
}

/** What every operation rejects with once the simulated process has stopped. */
export class SimulatedStopError extends Error {
  override readonly name = 'SimulatedStopError'
}

/** The one place every operation passes before it is applied: it counts, tells, stops and fails them. */
export class OperationGate {
  readonly faults: Faults = new Faults()
  readonly #listeners = new Set<(operation: Operation) => void>()
  #operations = 0
  #stopsAt = Infinity
  #isStopped = false

  get operations(): number {
    return this.#operations
  }

  get isStopped(): boolean {
    return this.#isStopped
  }

  stopAt(index: number): void {
    if (!Number.isSafeInteger(index) || index < 0) {
      throw new TypeError(`Expected \`index\` to be a whole number of 0 or more, got ${index}`)
    }
    this.#stopsAt = index
  }

  listen(listener: (operation: Operation) => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  /** Counts the operation and gives the fault that hits it. Throws when the process has stopped. */
  pass(request: OperationRequest): FaultEffect {
    this.#checkStop(request)
    const operation: Operation = { index: this.#operations, ...request }
    for (const listener of this.#listeners) listener(operation)
    // Again, since a listener may have stopped the process.
    this.#checkStop(request)
    this.#operations += 1
    return this.faults.effectOn(operation) ?? {}
  }

  #checkStop({ operation, path }: OperationRequest): void {
    if (this.#operations >= this.#stopsAt) this.#isStopped = true
    if (!this.#isStopped) return
    const stop = `The simulated process has stopped before operation ${this.#operations}`
    throw new SimulatedStopError(`${stop}; ${operation} of ${path} was not done`)
  }
}
