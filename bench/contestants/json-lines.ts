import { once } from 'node:events'
import { closeSync, createReadStream, createWriteStream, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { finished } from 'node:stream/promises'

import { loadPackage } from '../packages.ts'
import type { Appendable, Readable } from './contestant.ts'

/**
 * Common handwritten code: a file handle, and one write and one datasync per append. Nothing keeps
 * concurrent appends in order.
 */
export async function naiveHandle(): Promise<Appendable> {
  return {
    name: 'fs.promises, write + datasync',
    version: process.version,
    promise: 'one `fdatasync` each, concurrent ones in no certain order; a short write goes unnoticed',
    blocksEventLoop: false,
    sharing: 'overlaps syncs',
    async open(path) {
      const handle = await open(path, 'a')
      const store = async (text: string): Promise<void> => {
        await handle.write(text)
        await handle.datasync()
      }
      return {
        append: (record) => store(lineOf(record)),
        appendAll: (records) => store(records.map(lineOf).join('')),
        close: () => handle.close(),
      }
    },
  }
}

/** The minimum in Node: a synchronous write followed by a synchronous fdatasync. */
export async function synchronousLoop(): Promise<Appendable> {
  return {
    name: 'Node, writeSync + fdatasyncSync',
    version: process.version,
    promise: 'one `fdatasync` each; a short write goes unnoticed',
    blocksEventLoop: true,
    sharing: undefined,
    async open(path) {
      const descriptor = openSync(path, 'a')
      const store = (text: string): undefined => {
        writeSync(descriptor, text)
        fdatasyncSync(descriptor)
      }
      return {
        append: (record) => store(lineOf(record)),
        appendAll: (records) => store(records.map(lineOf).join('')),
        close: async () => closeSync(descriptor),
      }
    },
  }
}

/** Reads lines with Node's own `readline`. */
export async function readline(): Promise<Readable> {
  return {
    name: 'readline',
    version: process.version,
    fill: fillLines,
    replays: [
      {
        name: 'createReadStream, readline, JSON.parse',
        notes: [],
        blocksEventLoop: false,
        async run(path) {
          let records = 0
          const input = createReadStream(path)
          const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })
          for await (const line of lines) if (JSON.parse(line) !== undefined) records++
          return records
        },
      },
    ],
  }
}

/** Reads lines with split2, in the way its users do. */
export async function split2(): Promise<Readable> {
  type Split = (mapper: (line: string) => unknown) => NodeJS.ReadWriteStream
  const name = 'split2'
  const { exports, version } = await loadPackage<{ readonly default: Split }>(name)
  return {
    name,
    version,
    fill: fillLines,
    replays: [
      {
        name: 'createReadStream, split2(JSON.parse)',
        notes: [],
        blocksEventLoop: false,
        async run(path) {
          let records = 0
          const parsed = createReadStream(path).pipe(exports.default(JSON.parse))
          for await (const record of parsed) if (record !== undefined) records++
          return records
        },
      },
    ],
  }
}

async function fillLines(path: string, batches: Iterable<readonly unknown[]>): Promise<void> {
  const file = createWriteStream(path)
  for (const batch of batches) {
    if (!file.write(batch.map(lineOf).join(''))) await once(file, 'drain')
  }
  file.end()
  await finished(file)
}

function lineOf(record: unknown): string {
  return `${JSON.stringify(record)}\n`
}
