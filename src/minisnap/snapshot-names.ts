import { temporarySuffix } from '../fs/durable.ts'

/** File name of the snapshot of a sequence number. */
export function snapshotName(sequence: number): string {
  return `snapshot-${sequence}.json`
}

/** The sequence number of a snapshot's file name; undefined for a name that no store gives. */
export function sequenceOf(name: string): number | undefined {
  const digits = /^snapshot-(0|[1-9]\d*)\.json$/.exec(name)?.[1]
  const sequence = Number(digits)
  return Number.isSafeInteger(sequence) ? sequence : undefined
}

/** Whether a name is that of a snapshot that was being written. */
export function isTemporary(name: string): boolean {
  return name.endsWith(temporarySuffix) && sequenceOf(name.slice(0, -temporarySuffix.length)) !== undefined
}

/**
 * Which snapshots may go: those older than the `keep` newest whole ones. Damaged ones are evidence, so they do not
 * count and stay as long as what they lie among.
 *
 * @param newestFirst sequence numbers of all there are
 */
export function superseded(
  newestFirst: readonly number[],
  options: { readonly keep: number; readonly damaged: ReadonlySet<number> },
): number[] {
  const oldestKept = newestFirst.filter((sequence) => !options.damaged.has(sequence))[options.keep - 1]
  return oldestKept === undefined ? [] : newestFirst.filter((sequence) => sequence < oldestKept)
}
