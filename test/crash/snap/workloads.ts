import type { Workload } from '../harness.ts'
import { type ExpectedSnaps, snapDirectory, snapWorkload } from './model.ts'

/**
 * A state of a size that depends on the sequence number, from a single write to several that a
 * simulated disk may tear.
 */
function stateOf(sequence: number, salt: number): unknown {
  return { n: sequence, salt, text: 'ä€😀'.repeat((sequence * 7 + salt) % 11) }
}

/** One workload for each kind of operation, with this many snapshots kept. */
export function scriptedSnaps(keep: number, salt: number): ReadonlyArray<Workload<ExpectedSnaps>> {
  const name = (what: string): string => `${what}, ${keep} kept, salt ${salt}`
  const state = (sequence: number): unknown => stateOf(sequence, salt)
  return [
    snapWorkload(name('one after another'), async (model, files) => {
      const store = model.open(files, keep)
      for (let sequence = 1; sequence <= keep + 3; sequence++) await model.create(store, state(sequence), sequence)
    }),
    snapWorkload(name('of the same sequence number again'), async (model, files) => {
      const store = model.open(files, keep)
      for (const sequence of [1, 2, 2, 2, 5, 5, 9]) {
        await model.create(store, [state(sequence), model.newest], sequence)
        await model.create(store, 'again', sequence)
      }
    }),
    snapWorkload(name('calls that overlap'), async (model, files) => {
      const store = model.open(files, keep)
      const creates = [3, 4, 4, 7, 8].map((sequence, index) => model.create(store, [index, state(sequence)], sequence))
      await Promise.all([...creates, store.restore(), store.sweep(), store.list()])
    }),
    snapWorkload(name('other ones who keep more and fewer'), async (model, files) => {
      let sequence = 0
      for (const kept of [keep + 2, keep, keep + 1]) {
        const store = model.open(files, kept)
        await model.restore(store)
        for (let n = 0; n < kept + 1; n++) await model.create(store, state(++sequence), sequence)
      }
    }),
    snapWorkload(name('over what a crash has left'), async (model, files) => {
      files.writeFile(`${snapDirectory}/snapshot-3.json.tmp`, '{"seq":3,"crc32":"0000')
      files.writeFile(`${snapDirectory}/snapshot-1.json.tmp`, '\0\0\0\0')
      const store = model.open(files, keep)
      await model.create(store, state(3), 3)
      await store.sweep()
      await model.create(store, state(4), 4)
    }),
    snapWorkload(name('on a disk whose writes are short'), async (model, files) => {
      files.shortWriteOn({ bytes: 5, times: 'always' })
      const store = model.open(files, keep)
      for (let sequence = 1; sequence <= keep + 1; sequence++) await model.create(store, { sequence }, sequence)
      files.clearFaults()
    }),
  ]
}
