import { loadPackage } from '../packages.ts'
import type { Contestant } from './contestant.ts'

/** The part of a ClassicLevel that the bench uses. */
interface Level {
  open(): Promise<void>
  put(key: string, value: unknown, options: { readonly sync: boolean }): Promise<void>
  batch(operations: readonly Put[], options: { readonly sync: boolean }): Promise<void>
  keys(options: { readonly reverse: boolean; readonly limit: number }): { all(): Promise<string[]> }
  values(): AsyncIterable<unknown>
  close(): Promise<void>
}

interface Put {
  readonly type: 'put'
  readonly key: string
  readonly value: unknown
}

interface LevelExports {
  readonly ClassicLevel: new (path: string, options: { readonly valueEncoding: 'json' }) => Level
}

/** LevelDB, with the sequence number as the key. */
export async function classicLevel(): Promise<Contestant> {
  const name = 'classic-level'
  const { exports, version } = await loadPackage<LevelExports>(name)
  const openLevel = async (path: string): Promise<Level> => {
    const level = new exports.ClassicLevel(path, { valueEncoding: 'json' })
    await level.open()
    return level
  }
  return {
    name,
    version,
    promise: '`sync: true`; concurrent appends may share a sync',
    blocksEventLoop: false,
    sharing: 'groups concurrent appends',
    async open(path) {
      const level = await openLevel(path)
      const next = await keysOf(level)
      return {
        append: (record) => level.put(next(), record, { sync: true }),
        appendAll: (records) => level.batch(putsOf(records, next), { sync: true }),
        close: () => level.close(),
      }
    },
    async fill(path, batches) {
      const level = await openLevel(path)
      const next = await keysOf(level)
      for (const batch of batches) await level.batch(putsOf(batch, next), { sync: false })
      await level.close()
    },
    replays: [
      {
        name: `${name}, values()`,
        notes: [],
        blocksEventLoop: false,
        async run(path) {
          const level = await openLevel(path)
          let records = 0
          for await (const record of level.values()) if (record !== undefined) records++
          await level.close()
          return records
        },
      },
    ],
  }
}

/** Generates the keys after the last existing one, padded so that text order is numeric order. */
async function keysOf(level: Level): Promise<() => string> {
  const [last = '0'] = await level.keys({ reverse: true, limit: 1 }).all()
  let sequence = Number(last)
  return () => String(++sequence).padStart(12, '0')
}

function putsOf(records: readonly unknown[], next: () => string): Put[] {
  return records.map((value) => ({ type: 'put', key: next(), value }))
}
