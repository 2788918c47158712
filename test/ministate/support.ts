import { expect } from 'vitest'

import { MiniStoreError } from '../../src/index.ts'
import { StateManager, type StateOptions } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

export interface Add {
  readonly by: number
}

export interface Sums {
  /** Every sum so far, in order. */
  readonly sums: number[]
}

export type SumManager = StateManager<Sums, Add>
export type SumOptions = Partial<StateOptions<Sums, Add>>

export const directory = '/state'
export const journalFile = '/state/journal.jsonl'

/** Opens a manager that adds numbers up, on a new or given simulated disk. */
export async function openSums(
  options: SumOptions & { readonly files?: SimulatedFileSystem } = {},
): Promise<{ files: SimulatedFileSystem; manager: SumManager }> {
  const { files = new SimulatedFileSystem(), ...others } = options
  const manager = await StateManager.open<Sums, Add>(directory, {
    initialState: () => ({ sums: [] }),
    mutator: ({ sums }, { by }) => {
      sums.push((sums.at(-1) ?? 0) + by)
    },
    fileSystem: files,
    ...others,
  })
  return { files, manager }
}

/** Adds 1 this many times. */
export async function addOnes(manager: SumManager, count: number): Promise<void> {
  for (let n = 0; n < count; n++) await manager.apply({ by: 1 })
}

export async function errorOf(failing: Promise<unknown>): Promise<MiniStoreError> {
  const error: unknown = await failing.then(
    () => expect.unreachable('it was expected to reject'),
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(MiniStoreError)
  return error as MiniStoreError
}

/** Resolves with the state found by opening a copy of the disk. The disk stays unchanged. */
export async function stateOn(files: SimulatedFileSystem, options: SumOptions = {}): Promise<readonly number[]> {
  const { manager } = await openSums({ ...options, files: files.afterKill() })
  const { sums } = manager.snapshot()
  await manager.close()
  return sums
}

/** Collects the operations from now on that change the disk, as "operation path". */
export function changesOf(files: SimulatedFileSystem): string[] {
  const trace: string[] = []
  files.onOperation(({ operation, path, changesDisk }) => {
    if (changesDisk) trace.push(`${operation} ${path}`)
  })
  return trace
}

/** Flips a bit in the middle of a snapshot's state. */
export function damageSnapshot(files: SimulatedFileSystem, sequence: number): void {
  const path = `${directory}/snapshot-${sequence}.json`
  const bytes = files.readFile(path)
  const at = bytes.indexOf('"state"') + 9
  bytes[at] = (bytes[at] ?? 0) ^ 1
  files.writeFile(path, bytes)
}
