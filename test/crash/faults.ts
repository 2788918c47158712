import type { Fault, Operation, SimulatedFileSystem } from '../../src/testing/index.ts'

/** How the nth matching operation, counted from 0, and perhaps all operations after it, go wrong. */
export interface FaultKind {
  readonly name: string
  /** The code of the system's error; undefined if no call fails. */
  readonly code: string | undefined
  strike(files: SimulatedFileSystem, nth: number): Fault
}

/** Makes one matching operation fail, or one and all after it. */
export function failing(
  name: string,
  code: 'EIO' | 'ENOSPC' | 'EDQUOT' | 'EFBIG',
  isPersistent: boolean,
  only: (operation: Operation) => boolean,
): FaultKind {
  return {
    name: `${name}${isPersistent ? ', and all after it,' : ''} fails with ${code}`,
    // The simulated EDQUOT has no name, as on Node 20.
    code: code === 'EDQUOT' ? 'Unknown system error -122' : code,
    strike: (files, nth) => {
      let fitting = 0
      return files.failOn((operation) => {
        if (!only(operation)) return false
        fitting += 1
        return isPersistent ? fitting > nth : fitting === nth + 1
      }, code)
    },
  }
}

/** Whether the operation needs room on the disk. */
export function needsRoom({ operation, mode }: Operation): boolean {
  return operation === 'write' || operation === 'makeDirectory' || (operation === 'open' && mode === 'create')
}

/** The system's error codes among an error and its causes. */
export function causes(error: Error): unknown[] {
  const found: unknown[] = []
  for (let at: unknown = error; at instanceof Error; at = at.cause) found.push('code' in at ? at.code : undefined)
  return found
}
