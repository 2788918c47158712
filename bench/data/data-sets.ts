import { flights, webhookPayloads } from './real.ts'
import { syntheticRecord } from './synthetic.ts'

/** A set of records to replay. */
export interface DataSet {
  readonly label: string
  readonly count: number
  /** The record at a place, counted from 0. The same place always has the same record. */
  readonly record: (place: number) => unknown
}

/** A source of a data set. `make` throws `NotInstalledError` if the package it needs is missing. */
export interface DataSource {
  readonly name: string
  readonly make: (options: { readonly isQuick: boolean }) => DataSet
}

const syntheticRecords = 1_500_000
const webhookBytes = 50_000_000
const quickRecords = 2000

export const dataSources: readonly DataSource[] = [
  { name: 'synthetic', make: ({ isQuick }) => synthetic('ascii', isQuick) },
  { name: 'synthetic, beyond ASCII', make: ({ isQuick }) => synthetic('beyond ascii', isQuick) },
  {
    name: 'webhook payloads',
    make({ isQuick }) {
      const payloads = webhookPayloads()
      const sizes = payloads.map((payload) => Buffer.byteLength(JSON.stringify(payload)))
      const bytes = sizes.reduce((sum, size) => sum + size, 0)
      const count = isQuick ? payloads.length : payloads.length * Math.ceil(webhookBytes / bytes)
      const average = (bytes / payloads.length / 1000).toFixed(1)
      const label = `webhook payloads, records=${count} record=${average}kB on average`
      return { label, count, record: (place) => payloads[place % payloads.length] }
    },
  },
  {
    name: 'flights-200k',
    make({ isQuick }) {
      const all = isQuick ? flights().slice(0, quickRecords) : flights()
      const label = `flights-200k.json, records=${all.length}`
      return { label, count: all.length, record: (place) => all[place] }
    },
  },
]

/** The records of a data set in order, in batches of at most 4096. */
export function* batchesOf({ count, record }: DataSet): Generator<unknown[]> {
  const most = 4096
  for (let first = 0; first < count; first += most) {
    yield Array.from({ length: Math.min(most, count - first) }, (_, index) => record(first + index))
  }
}

function synthetic(alphabet: 'ascii' | 'beyond ascii', isQuick: boolean): DataSet {
  const count = isQuick ? quickRecords : syntheticRecords
  const label = `records=${count} record=150B, ${alphabet === 'ascii' ? 'ASCII' : 'beyond ASCII'}`
  return { label, count, record: (place) => syntheticRecord(place, 150, alphabet) }
}
