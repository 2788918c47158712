const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉']

/** Returns a bar of at most `columns` columns. A value equal to `most` fills it. */
export function barOf(value: number, options: { readonly most: number; readonly columns: number }): string {
  const { most, columns } = options
  if (most <= 0 || value <= 0) return ''
  const parts = Math.max(1, Math.round((value / most) * columns * 8))
  return '█'.repeat(Math.floor(parts / 8)) + (eighths[parts % 8] as string)
}
