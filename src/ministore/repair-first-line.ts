import type { File } from '../fs/file-system.ts'
import { headerMagic } from './format.ts'
import { type CheckLine, readLineRuns } from './repair-lines.ts'

/**
 * Whether line 1 of a segment without a header is a record: then the header is missing, and no line is to go.
 * A damaged header is none, even where another codec would take any line for a record.
 */
export async function beginsWithRecord(file: File, end: number, check: CheckLine): Promise<boolean> {
  const runs = readLineRuns(file, { from: 0, end, check })
  try {
    const first = await runs.next()
    return first.done !== true && first.value.lines > 0 && !resemblesHeader(first.value.good)
  } finally {
    await runs.return(undefined)
  }
}

/** How far a header may be shifted: by a byte order mark, by bytes at its beginning that are lost. */
const mostShift = 8

/** Whether a third of what every header begins with is there, each byte in its place next to the others. */
function resemblesHeader(bytes: Buffer): boolean {
  const begin = bytes.toString('latin1', 0, headerMagic.length + mostShift)
  for (let shift = -mostShift; shift <= mostShift; shift++) {
    let same = 0
    for (let at = 0; at < headerMagic.length; at++) if (begin[at + shift] === headerMagic[at]) same++
    if (same * 3 > headerMagic.length) return true
  }
  return false
}
