import stringWidth from 'string-width'

import { visible } from './style.ts'

/**
 * Returns the lines of a table, with two spaces between columns. Columns are aligned left unless
 * their index is in `right`.
 */
export function formatTable(rows: ReadonlyArray<readonly string[]>, right: readonly number[] = []): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, widthOf(cell))
  }
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const columns = widths[column] as number
        return right.includes(column) ? ' '.repeat(columns - widthOf(cell)) + cell : padded(cell, columns)
      })
      .join('  ')
      .trimEnd(),
  )
}

/** Returns the columns that a text takes on a terminal. Style codes do not count. */
export function widthOf(text: string): number {
  return stringWidth(text)
}

/** Pads a text with trailing spaces to this many columns. */
export function padded(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - widthOf(text)))
}

/**
 * Returns text from a file as `visible` shows it, in at most `columns` columns. A longer text ends
 * with `…`. Neither a character as a reader sees it nor an escape is ever cut in half.
 */
export function excerpt(text: string, columns: number): string {
  let shown = ''
  let width = 0
  /** The part of the text that leaves room for a `…`. */
  let fitting = ''
  for (const { segment } of characters.segment(text)) {
    const next = visible(segment)
    width += widthOf(next)
    if (width > columns || segment.length > mostUnits) return `${fitting}…`
    shown += next
    if (width < columns) fitting = shown
  }
  return shown
}

const characters = new Intl.Segmenter('en', { granularity: 'grapheme' })

/**
 * Flags of nations within a country take 14 UTF-16 code units, families 11. A longer cluster is a
 * pile of accents.
 */
const mostUnits = 32
