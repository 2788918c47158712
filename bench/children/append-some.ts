/**
 * Appends one record and then RECORDS more, with CALLERS concurrent callers, and exits without
 * closing the store. A trace of this process therefore counts the syncs of appending and not those
 * of closing.
 *
 *   node append-some.js CONTESTANT PATH RECORDS CALLERS
 */
import { appenders } from '../contestants/index.ts'
import { syntheticRecord } from '../data/synthetic.ts'

const [name = '', path = '', recordsText = '', callersText = ''] = process.argv.slice(2)
const load = appenders[name]
if (load === undefined) throw new Error(`Expected a contestant, got ${name}`)

const log = await (await load()).open(path)
// Every run makes this append, even with RECORDS = 0. Work that only the first append causes
// therefore cancels out in the difference between two runs.
await log.append(syntheticRecord(0, 100))
let appended = 0
const caller = async (): Promise<void> => {
  while (appended < Number(recordsText)) await log.append(syntheticRecord(++appended, 100))
}
await Promise.all(Array.from({ length: Number(callersText) }, caller))
process.exit(0)
