/**
 * Appends as many records as it is told to and ends without closing, so that whoever traces it can count what
 * appending takes.
 *
 *   node append-some.js CONTESTANT PATH RECORDS CALLERS
 */
import { appendables } from '../contestants/index.ts'
import { syntheticRecord } from '../data/synthetic.ts'

const [name = '', path = '', recordsText = '', callersText = ''] = process.argv.slice(2)
const load = appendables[name]
if (load === undefined) throw new Error(`Expected a contestant, got ${name}`)

const log = await (await load()).open(path)
// What only the first append does is done in every run, however many follow.
await log.append(syntheticRecord(0, 100))
let appended = 0
const caller = async (): Promise<void> => {
  while (appended < Number(recordsText)) await log.append(syntheticRecord(++appended, 100))
}
await Promise.all(Array.from({ length: Number(callersText) }, caller))
process.exit(0)
