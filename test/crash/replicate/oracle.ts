import { type MiniStore, MiniStoreError, replicate } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import type { Oracle, StateKind } from '../harness.ts'
import { type ExpectedPair, openOne, paths } from './workloads.ts'

/** The lines of a journal, and the sequence number of the first. */
interface Lines {
  readonly first: number
  readonly lines: readonly string[]
}

/** What a state held before replication continued, and after. */
export interface FoundPair {
  readonly source: Lines
  readonly target: Lines
  /** Whether opening had to repair something. */
  readonly hasRecovered: boolean
  /**
   * Whether the target is refused as damaged. An `appendAll` of several lines that was torn at its
   * beginning cannot be told from damage. Only harsh states may hold one.
   */
  readonly isRefused: boolean
}

/**
 * Opens source and target of a state, compares the two, and continues. What breaks a rule of every
 * state is thrown here: a target that is no beginning of its source, a replication that is refused, and
 * one that does not make the two equal.
 */
export class ReplicaOracle implements Oracle<ExpectedPair, FoundPair> {
  /** How many states were refused. */
  refused = 0

  async find(state: SimulatedFileSystem): Promise<FoundPair> {
    const source = await openOne(state, paths.source)
    const target = await openOne(state, paths.target).catch(orDamage)
    if (target === undefined) {
      this.refused += 1
      const found = { source: await linesOf(source), target: nothing, hasRecovered: false, isRefused: true }
      await source.close()
      return found
    }
    try {
      const found = { source: await linesOf(source), target: await linesOf(target) }
      assertBeginning(found.target, found.source)
      await replicate(source, target, { follow: false, truncate: false })
      const after = await linesOf(target)
      if (target.id !== source.id) throw new Error(`the target has the id ${target.id}, the source ${source.id}`)
      assertBeginning(after, found.source)
      if (lastOf(after) !== lastOf(found.source)) {
        throw new Error(`the target ends at ${lastOf(after)}, the source at ${lastOf(found.source)}`)
      }
      const next = await source.append('next')
      await replicate(source, target, { follow: false })
      if ((await target.replay({ from: next })).join() !== 'next') throw new Error(`record ${next} is not there`)
      const hasRecovered = [source, target].some(({ recovery }) => recovery.torn !== undefined)
      return { ...found, hasRecovered, isRefused: false }
    } finally {
      await target.close()
      await source.close()
    }
  }

  check(found: FoundPair, { issued, acknowledged, replicated }: ExpectedPair, { isHarsh }: StateKind): void {
    const { source, target, isRefused } = found
    if (isRefused && isHarsh) return
    if (isRefused) throw new Error('the target is refused as damaged')
    if (lastOf(source) < acknowledged) throw new Error(`the source lost ${lastOf(source) + 1} to ${acknowledged}`)
    if (lastOf(target) < replicated) throw new Error(`the target lost ${lastOf(target) + 1} to ${replicated}`)
    for (const [name, { first, lines }] of Object.entries({ source, target })) {
      const wrong = lines.findIndex((line, index) => line !== issued[first - 1 + index])
      if (wrong !== -1) throw new Error(`record ${first + wrong} of the ${name} is ${lines[wrong]}`)
    }
    // What was deleted from the source is in the target.
    if (target.lines.length > 0 && source.first > lastOf(target) + 1) {
      throw new Error(`the source begins with ${source.first}, the target ends at ${lastOf(target)}`)
    }
  }

  hasRecovered({ hasRecovered }: FoundPair): boolean {
    return hasRecovered
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const source = await openOne(state, paths.source)
    const target = await openOne(state, paths.target)
    try {
      await replicate(source, target, { follow: false })
    } finally {
      await target.close()
      await source.close()
    }
  }

  expectedInside(expected: ExpectedPair): ExpectedPair {
    return expected
  }
}

const nothing: Lines = { first: 1, lines: [] }

function orDamage(error: unknown): undefined {
  if (!(error instanceof MiniStoreError) || error.code !== 'ERR_MINISTORE_CORRUPT') throw error
}

async function linesOf(store: MiniStore): Promise<Lines> {
  const lines: string[] = []
  for await (const { record } of store.preparedEntries()) lines.push(record.text)
  return { first: store.firstSequence, lines }
}

const lastOf = ({ first, lines }: Lines): number => first + lines.length - 1

/** Compares the records that both have. The target must not end after the source. */
function assertBeginning(target: Lines, source: Lines): void {
  if (target.lines.length === 0) return
  if (lastOf(target) > lastOf(source)) throw new Error(`the target ends at ${lastOf(target)}, the source at ${lastOf(source)}`)
  for (let at = Math.max(target.first, source.first); at <= lastOf(target); at++) {
    const [copy, line] = [target.lines[at - target.first], source.lines[at - source.first]]
    if (copy !== line) throw new Error(`record ${at} is ${line} in the source and ${copy} in the target`)
  }
}
