import { fields, integer } from '../options.ts'
import { normalisePath } from './disk.ts'
import {
  type Operation, type OperationName, type OperationRequest, systemError, type SystemErrorCode,
} from './operation.ts'

/** Selects the operations that a fault hits. An operation must match every field that is given. */
export interface OperationMatch {
  /**
   * Names of operations.
   * @default all
   */
  readonly operation?: OperationName | readonly OperationName[]
  /**
   * The whole path, or a pattern to search for in it. For a rename, either path may match.
   * @default all
   */
  readonly path?: string | RegExp
  /**
   * The first matching operation to hit, counted from now on: 1 is the next one.
   * @default 1
   */
  readonly nth?: number
  /**
   * How many matching operations to hit, starting with the `nth`.
   * @default 1
   */
  readonly times?: number | 'always'
}

/** Selects the writes that `SimulatedFileSystem.shortWriteOn` cuts short. */
export interface ShortWriteMatch extends Omit<OperationMatch, 'operation'> {
  /** The most bytes that a write stores: 0 or more. */
  readonly bytes: number
}

/** Options of `SimulatedFileSystem.failOn`. */
export interface FaultOptions {
  /**
   * How many bytes to store before failing, as on a disk that fills up. If the first operation that
   * the fault hits is a write, the write stores this many bytes, at most as many as requested, and
   * reports the count without an error. The next `times` matching operations fail. If the first
   * operation is not a write, this option has no effect.
   * @default absent: the first write fails at once
   */
  readonly bytesFirst?: number
  /**
   * Whether a failed `sync`, `dataSync` or `syncDirectory` loses the pending changes. Lost changes
   * stay visible, no later sync makes them durable, and a crash may undo them. Linux does this with
   * the pages of a file ("fsyncgate", 2018). For names, a journaling file system keeps track of
   * pending changes, or it becomes read-only.
   * @default true for `sync` and `dataSync`, false for `syncDirectory`
   */
  readonly dropsPending?: boolean
}

/** A fault that was set with `failOn` or `shortWriteOn`. */
export interface Fault {
  /**
   * How many operations the fault has hit so far. A test that expects a fault should check this.
   */
  readonly hits: number
  /** Removes the fault. */
  remove(): void
}

/** The effect of a fault on an operation. */
export interface FaultEffect {
  readonly error?: Error
  readonly dropsPending?: boolean
  /** The most bytes that a write may store. */
  readonly maxBytes?: number
}

type Match = OperationMatch | ((operation: Operation) => boolean)

/**
 * The faults that are set. If several faults hit one operation, the fault that was set first
 * decides.
 */
export class Faults {
  readonly #rules = new Set<(operation: Operation) => FaultEffect | undefined>()

  fail(match: Match, error: SystemErrorCode | Error, options: FaultOptions = {}): Fault {
    const { bytesFirst, dropsPending } = options
    if (bytesFirst !== undefined) integer('bytesFirst', bytesFirst, { min: 0 })
    // An unknown error name must fail here, not when the fault strikes.
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
    integer('bytes', bytes, { min: 0 })
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
    // Every rule sees every operation, so that the count of one rule does not depend on the others.
    for (const rule of this.#rules) {
      const mine = rule(operation)
      effect ??= mine
    }
    return effect
  }

  /**
   * Calls `strike` for matching operations from the `nth` on, with ordinal 1 for the `nth` itself.
   */
  #add(match: Match, strike: (operation: Operation, ordinal: number) => FaultEffect | undefined): Fault {
    const fits = typeof match === 'function' ? match : matcherOf(match)
    const nth = typeof match === 'function' ? 1 : integer('nth', match.nth, { default: 1 })
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

/** Calls on an open file. Node's errors of such calls carry no path. */
const fileCalls = new Set(['read', 'write', 'ftruncate', 'fsync', 'fdatasync', 'fstat', 'fcntl', 'close'])

/** Returns the error that a failing system call of this operation would give. */
function errorOf(code: SystemErrorCode, { syscall, path, to }: Operation): NodeJS.ErrnoException {
  return systemError(code, syscall, fileCalls.has(syscall) ? {} : { path, to })
}

function timesOf(match: Match): number {
  if (typeof match === 'function' || match.times === 'always') return Infinity
  return integer('times', match.times, { default: 1 })
}

function matcherOf(match: OperationMatch): (candidate: Operation) => boolean {
  const { operation, path } = match
  fields(match, ['operation', 'path', 'nth', 'times'])
  const names = operation === undefined ? undefined : new Set<string>([operation].flat())
  const fits =
    typeof path === 'string'
      ? (candidate: string) => candidate === normalisePath(path)
      : (candidate: string) => path === undefined || candidate.search(path) !== -1
  return (candidate) =>
    (names === undefined || names.has(candidate.operation)) &&
    (fits(candidate.path) || (candidate.to !== undefined && fits(candidate.to)))
}

/** The error with which every operation rejects once the simulated process has stopped. */
export class SimulatedStopError extends Error {
  /** Always `SimulatedStopError`. */
  override readonly name = 'SimulatedStopError'
}

/**
 * Every operation passes this gate before it is applied. The gate counts the operation, tells the
 * listeners, stops the process, and returns the effect of faults.
 */
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
    this.#stopsAt = integer('index', index, { min: 0 })
  }

  listen(listener: (operation: Operation) => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  /**
   * Counts the operation and returns the effect of the fault that hits it.
   *
   * @throws {SimulatedStopError} if the process has stopped.
   */
  pass(request: OperationRequest): FaultEffect {
    this.#checkStop(request)
    const operation: Operation = { index: this.#operations, ...request }
    for (const listener of this.#listeners) listener(operation)
    // Checked again, because a listener may have stopped the process.
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
