import { MiniStore, replicate } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { turn } from '../../support/consume.ts'
import type { Workload } from '../harness.ts'

/** Source and target lie on one simulated disk, so a crash leaves any subset of what is pending in both. */
export const paths = { source: '/source/journal.jsonl', target: '/target/journal.jsonl' } as const

/** What a crash may not take away, and what may be there. */
export interface ExpectedPair {
  /** Lines given to the source so far, by sequence number: the first is that of record 1. */
  readonly issued: readonly string[]
  /** Sequence number of the last record that the source has acknowledged. */
  readonly acknowledged: number
  /** Sequence number of the last record that the target has acknowledged. */
  readonly replicated: number
}

/** What one step needs: the open source, an append that is counted, and a replication that is counted. */
export interface Steps {
  readonly source: MiniStore
  readonly append: (count: number) => Promise<void>
  /** Opens the target, copies what is there, or follows during the task, and closes the target. */
  readonly replicated: (
    options?: { readonly truncate?: boolean; readonly batch?: number },
    during?: () => Promise<void>,
  ) => Promise<void>
  /** Closes the source and opens it again. */
  readonly reopened: () => Promise<void>
}

/** A workload of a source and its replica, each with small segments. */
export function replicaWorkload(
  name: string,
  salt: number,
  steps: (steps: Steps) => Promise<void>,
): Workload<ExpectedPair> {
  const issued: string[] = []
  let source: MiniStore | undefined
  let target: MiniStore | undefined
  let acknowledged = 0
  let replicated = 0
  const lastOf = (): void => {
    acknowledged = Math.max(acknowledged, source?.lastSequence ?? 0)
    replicated = Math.max(replicated, target?.lastSequence ?? 0)
  }
  return {
    name: `${name}, salt ${salt}`,
    expected: () => {
      lastOf()
      return { issued: [...issued], acknowledged, replicated }
    },
    run: async (files) => {
      const open = (path: string, maxBytesPerSegment: number): Promise<MiniStore> =>
        MiniStore.open(path, { fileSystem: files, maxBytesPerSegment })
      source = await open(paths.source, 130 + salt)
      const append = async (count: number): Promise<void> => {
        for (let n = 0; n < count; n++) {
          const record = { n: issued.length + 1, text: 'ä€😀'.repeat((issued.length * 7 + salt) % 5) }
          issued.push(JSON.stringify(record))
          await source?.append(record)
        }
      }
      try {
        await steps({
          get source() {
            return source as MiniStore
          },
          append,
          reopened: async () => {
            await source?.close()
            lastOf()
            source = await open(paths.source, 130 + salt)
          },
          replicated: async (options = {}, during) => {
            target = await open(paths.target, 170)
            try {
              const ended = new AbortController()
              const follow = during !== undefined
              const running = replicate(source as MiniStore, target, { ...options, follow, signal: ended.signal })
              const state = { isOver: false }
              running.catch(() => {}).finally(() => (state.isOver = true))
              if (during !== undefined) {
                await during()
                while (target.lastSequence < (source as MiniStore).lastSequence && !state.isOver) await turn()
                ended.abort()
              }
              await running
            } finally {
              lastOf()
              await target.close()
            }
          },
        })
      } finally {
        await source.close()
      }
    },
  }
}

/** One workload for each way in which a replica comes to be and goes on. */
export function scriptedReplicas(salt: number): ReadonlyArray<Workload<ExpectedPair>> {
  return [
    replicaWorkload('a copy in batches', salt, async ({ append, replicated }) => {
      await append(7)
      await replicated({ batch: 3 })
    }),
    replicaWorkload('a copy of nothing, continued', salt, async ({ append, replicated }) => {
      await replicated()
      await append(3)
      await replicated()
      await append(2)
      await replicated()
    }),
    replicaWorkload('following', salt, async ({ append, replicated }) => {
      await append(2)
      await replicated({}, () => append(6))
    }),
    replicaWorkload('of a truncated journal', salt, async ({ source, append, replicated }) => {
      await append(4)
      await source.rotate()
      await source.truncateBefore(5)
      await replicated()
      await append(3)
      await replicated({ batch: 1 })
    }),
    replicaWorkload('store and forward', salt, async ({ append, replicated, reopened }) => {
      await append(4)
      await replicated({ truncate: true, batch: 2 })
      await reopened()
      await replicated({ truncate: true }, () => append(5))
    }),
  ]
}

/** Opens one of the two journals of a state. */
export function openOne(files: SimulatedFileSystem, path: string): Promise<MiniStore> {
  return MiniStore.open(path, { fileSystem: files, maxBytesPerSegment: 150 })
}
