import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { journalFile } from '../../miniqueue/support.ts'

/** The fields of a journal record that count attempts. */
interface Step {
  readonly op: string
  readonly ids?: readonly number[]
  readonly steps?: readonly Step[]
}

/**
 * How many attempts of each message a power failure would leave, for a queue that is never
 * compacted.
 */
export class DurableAttempts {
  readonly #attempts = new Map<number, number>()
  #lines = 0
  #takenBack = 0

  /** Attempts taken back, in the records read so far. */
  get takenBack(): number {
    return this.#takenBack
  }

  of(id: number, files: SimulatedFileSystem): number {
    const journal = files.afterCrash({ keep: 'none' }).readFile(journalFile)
    const lines = journal.toString().split('\n').slice(1, -1)
    for (const line of lines.slice(this.#lines)) this.#add(JSON.parse(line) as Step)
    this.#lines = lines.length
    return this.#attempts.get(id) ?? 0
  }

  #add({ op, ids = [], steps = [] }: Step): void {
    for (const step of steps) this.#add(step)
    for (const id of ids) {
      const attempts = this.#attempts.get(id) ?? 0
      if (op === 'deliver') this.#attempts.set(id, attempts + 1)
      if (op === 'return') this.#attempts.set(id, attempts - 1)
      if (op === 'redrive') this.#attempts.set(id, 0)
    }
    if (op === 'return') this.#takenBack += ids.length
  }
}
