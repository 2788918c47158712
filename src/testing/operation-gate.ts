import { type FaultEffect, Faults } from './fault.ts'
import type { Operation, OperationRequest } from './operation.ts'

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
