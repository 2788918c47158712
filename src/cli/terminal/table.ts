/** Lines of a table, columns two spaces apart. Columns are aligned left unless their index is in `right`. */
export function formatTable(rows: ReadonlyArray<readonly string[]>, right: readonly number[] = []): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, widthOf(cell))
  }
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const padding = ' '.repeat((widths[column] as number) - widthOf(cell))
        return right.includes(column) ? padding + cell : cell + padding
      })
      .join('  ')
      .trimEnd(),
  )
}

/** Columns a text takes, styles not counted. */
export function widthOf(text: string): number {
  // oxlint-disable-next-line no-control-regex -- the codes of styles begin with one
  return Array.from(text.replaceAll(/\u001B\[\d+m/g, '')).length
}
