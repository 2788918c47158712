import { rm } from 'node:fs/promises'
import { join } from 'node:path'

import { measureCalls, sliceOfTurns } from '../calls.ts'
import type { Entrant, Slice } from '../comparison.ts'
import { synchronousLoop } from '../contestants/json-lines.ts'
import type { Findings } from '../results.ts'
import { compileFloor, runFloor } from './c-floor.ts'

/** What a slice of the floor is like. */
export interface FloorSlice {
  readonly directory: string
  /** Bytes of what is appended, its line feed included. */
  readonly bytes: number
  readonly milliseconds: number
  /** Appends that are one unit of what is compared. Default: 1. */
  readonly appends?: number
}

/** The least that something durable can cost: a write and a sync for each time that it must be durable. */
export interface AppendFloor {
  readonly name: string
  readonly missing: NonNullable<Findings['missing']>
  slice(options: FloorSlice): Promise<Slice>
}

/** The C floor, or, where it cannot be compiled, the same in Node. */
export async function appendFloor(): Promise<AppendFloor> {
  const compiled = await compileFloor()
  if ('program' in compiled) {
    const name = 'C, write + fdatasync'
    return { name, missing: [], slice: (options) => compiledSlice(compiled.program, options) }
  }
  const { name } = await synchronousLoop()
  return { name, missing: [{ name: 'C floor', reason: compiled.missing }], slice: nodeSlice }
}

/** The floor as an entrant, named by how many appends are a unit. */
export function floorEntrant({ name }: AppendFloor, appends = 1): Entrant {
  return { name: appends === 1 ? name : `${name}, ${countText(appends)} times`, role: 'floor', notes: [] }
}

function countText(appends: number): string {
  return Number.isInteger(appends) ? String(appends) : appends.toFixed(2)
}

async function compiledSlice(program: string, options: FloorSlice): Promise<Slice> {
  const { directory, bytes, milliseconds, appends = 1 } = options
  const path = join(directory, 'floor')
  const durations = await runFloor(program, { path, bytes, milliseconds })
  await rm(path)
  return unitsOf(durations, appends)
}

async function nodeSlice({ directory, bytes, milliseconds, appends = 1 }: FloorSlice): Promise<Slice> {
  const path = join(directory, 'floor')
  const log = await (await synchronousLoop()).open(path)
  // A record is stored as its JSON in a line: two quotes and a line feed are not of the text.
  const record = 'x'.repeat(bytes - 3)
  const options = { callers: 1, milliseconds, isBlocking: true }
  const { latencies = [] } = await measureCalls(() => log.append(record), options)
  await log.close()
  await rm(path)
  return unitsOf(latencies, appends)
}

/** Turns put together to units of so many. What is left over of the last one counts in proportion. */
function unitsOf(durations: readonly number[], appends: number): Slice {
  const { time } = sliceOfTurns(durations, 1)
  const units = durations.length / appends
  if (!Number.isInteger(appends)) return { units, time }
  const whole = Array.from({ length: Math.max(1, Math.floor(units)) }, (_, unit) =>
    durations.slice(unit * appends, (unit + 1) * appends).reduce((sum, duration) => sum + duration, 0),
  )
  return { units, time, latencies: whole }
}
