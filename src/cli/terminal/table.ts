import stringWidth from 'string-width'

import { visible } from './style.ts'

/** Lines of a table, columns two spaces apart. Columns are aligned left unless their index is in `right`. */
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

/** Columns a text takes, styles not counted. */
export function widthOf(text: string): number {
  return stringWidth(text)
}

/** A text with spaces behind it, up to so many columns. */
export function padded(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - widthOf(text)))
}

/**
 * A text from a file as `visible` shows it, in so many columns at most; `…` stands for the rest. What people see as one
 * character, and an escape, is never cut in half.
 */
export function excerpt(text: string, columns: number): string {
  let shown = ''
  let width = 0
  /** What has room in front of a `…`. */
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

/** The flags of nations within one take 14, families 11: what is longer is a heap of accents. */
const mostUnits = 32
