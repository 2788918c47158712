import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** A state of several MiB of JSON. */
function largeState(): { list: unknown[] } {
  return { list: Array.from({ length: 40_000 }, (_, n) => ({ n, text: `ä€😀 ${'x'.repeat(100)}` })) }
}

/** Counts the event-loop turns until a promise settles. */
async function turnsDuring(task: Promise<unknown>): Promise<number> {
  let turns = 0
  let isOver = false
  const count = (): void => {
    turns += 1
    if (!isOver) setImmediate(count)
  }
  setImmediate(count)
  await task.finally(() => (isOver = true))
  return turns
}

describe('a snapshot of a frozen state', () => {
  test('equals a snapshot of the same state that is not frozen', async () => {
    const directory = await temporaryDirectory()
    const state = largeState()
    const files = [true, false].map(async (frozen) => {
      const store = new SnapStore(join(directory, `${frozen}`))
      const { path } = await store.create(state, 7, { frozen })
      return await readFile(path)
    })
    const [frozen, other] = await Promise.all(files)
    expect(other?.length).toBeGreaterThan(4_000_000)
    expect(other?.equals(frozen as Buffer)).toBe(true)
  })

  test('is serialized while it is written: other tasks run meanwhile', async () => {
    const store = new SnapStore(await temporaryDirectory())
    const seen: string[] = []
    const pieces = Array.from({ length: 6 }, (_, n) => ({
      get text() {
        seen.push(`piece ${n}`)
        if (n === 0) setImmediate(() => seen.push('another task'))
        return `${n}`.repeat(1024 * 1024)
      },
    }))
    await store.create(pieces, 1, { frozen: true })
    expect(seen).toContain('another task')
    expect(seen.indexOf('another task')).toBeLessThan(seen.indexOf('piece 5'))
  })

  test('that proves not serializable leaves only the older snapshots', async () => {
    const files = new SimulatedFileSystem()
    const store = new SnapStore<unknown>('/snaps', { fileSystem: files })
    await store.create({ total: 1 }, 1)
    const state = { ...largeState(), last: Number.NaN }
    const created = store.create(state, 2, { frozen: true })
    await expect(created).rejects.toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE', sequence: 2 })
    await expect(created).rejects.toThrow('`state.last`, got NaN')
    expect(files.names('/snaps')).toEqual(['snapshot-1.json'])
    expect(await store.restore()).toMatchObject({ state: { total: 1 }, sequence: 1 })
    await store.create({ total: 2 }, 2, { frozen: true })
    expect(await store.restore()).toMatchObject({ state: { total: 2 }, sequence: 2 })
  })

  test.each([[{ frozen: 1 }, /Expected `frozen` to be true or false, got `1`/], [{ freeze: true }, /`freeze`/]])(
    'is refused with invalid options: %o',
    async (options, message) => {
      const store = new SnapStore('/snaps', { fileSystem: new SimulatedFileSystem() })
      await expect(store.create({}, 1, options as object)).rejects.toThrow(message)
      expect(await store.exists()).toBe(false)
    },
  )
})

test('a state manager lets other tasks run while it creates a snapshot, and applies no change meanwhile', async () => {
  const directory = await temporaryDirectory()
  const manager = await StateManager.open(directory, {
    initialState: () => ({ ...largeState(), total: 0 }),
    mutator: (state, by: number) => {
      state.total += by
    },
  })
  await manager.apply(1)
  const created = manager.createSnapshot()
  const applied = manager.apply(1)
  expect(await turnsDuring(created)).toBeGreaterThan(4)
  expect((await created).sequence).toBe(1)
  await applied
  await manager.close()
  const store = new SnapStore<{ total: number }>(directory)
  expect((await store.restore())?.state.total).toBe(1)
})
