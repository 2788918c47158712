import { readFile } from 'node:fs/promises'

/** A journal as any program sees it: lines of text files. */
export interface RawJournal {
  /** First line of each segment. */
  readonly headers: readonly string[]
  /** The other lines, without their line feeds. */
  readonly records: readonly Buffer[]
}

/** Reads segments without the library, so that what the library says of them can be checked. */
export async function readRawJournal(segmentPaths: readonly string[]): Promise<RawJournal> {
  const headers: string[] = []
  const records: Buffer[] = []
  for (const path of segmentPaths) {
    const [header, ...lines] = splitLines(await readFile(path))
    headers.push(header?.toString() ?? '')
    // One by one: a call takes only so many arguments.
    for (const line of lines) records.push(line)
  }
  return { headers, records }
}

/** @throws {Error} when the last line has no line feed. */
export function splitLines(bytes: Buffer): Buffer[] {
  const lines: Buffer[] = []
  for (let start = 0; start < bytes.length; ) {
    const end = bytes.indexOf(0x0a, start)
    if (end < 0) throw new Error(`The last ${bytes.length - start} bytes end in no line feed`)
    lines.push(bytes.subarray(start, end))
    start = end + 1
  }
  return lines
}
