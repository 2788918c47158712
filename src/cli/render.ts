// How facts are printed: as one line of JSON for programs, or as lines and tables for people.

import stringWidth from 'string-width'

import type { Arguments } from './command.ts'
import type { Io } from './io.ts'
import { jsonLine, type Style, styleFor, visible } from './terminal.ts'

/** The place where text is printed. */
export interface Page {
  readonly style: Style
  /** Infinite if the output is not a terminal: nothing is shortened for a program. */
  readonly columns: number
}

/**
 * Prints what a command has found out: with `--json` the facts themselves, a list as one line for
 * each item, otherwise the lines that `linesOf` makes of them.
 */
export async function print<Facts extends object>(
  facts: Facts,
  { args, io }: { readonly args: Arguments; readonly io: Pick<Io, 'stdout' | 'env'> },
  linesOf: (facts: Facts, page: Page) => readonly string[],
): Promise<void> {
  const { stdout } = io
  const page = { style: styleFor(stdout, io), columns: stdout.isTerminal ? stdout.columns : Number.POSITIVE_INFINITY }
  const items: readonly object[] = Array.isArray(facts) ? facts : [facts]
  const lines = args.flag('json') ? items.map(jsonLine) : linesOf(facts, page).map((line) => `${line}\n`)
  await stdout.write(lines.join(''))
}

/** A column of a table. Text from files becomes visible here, so cells need not care. */
export interface Column<Row> {
  readonly head: string
  readonly cell: (row: Row) => string | number
  readonly style?: (row: Row) => Parameters<Style>[0] | undefined
  readonly align?: 'right'
  /** A longer text is shortened. */
  readonly maxColumns?: number
  /** Left out if the terminal is too narrow. */
  readonly isOptional?: true
}

/** The last column of a table is not made narrower than this. */
const minColumns = 12

/** A cell of the last column takes no more lines than this. The last one then ends with `…`. */
const maxLines = 6

/**
 * Returns the lines of a table with a bold head. In a terminal that is too narrow for it, optional
 * columns are left out, the last one first. Then the texts of the last column continue below
 * themselves.
 */
export function table<Row>(rows: readonly Row[], columns: ReadonlyArray<Column<Row>>, page: Page): string[] {
  const widths = new Map(
    columns.map((column) => [column.head, widest([column.head, ...rows.map((row) => textIn(column, row))])]),
  )
  const widthOfAll = (): number => shown.reduce((sum, { head }) => sum + (widths.get(head) as number) + 2, -2)
  let shown = [...columns]
  for (const column of columns.toReversed()) {
    if (column.isOptional === true && widthOfAll() > page.columns) shown = shown.filter((other) => other !== column)
  }
  const lastWidth = Math.max((widths.get(shown.at(-1)?.head ?? '') ?? 0) - Math.max(widthOfAll() - page.columns, 0), minColumns)
  const cells = rows.flatMap((row) => {
    const texts = shown.map((column) => textIn(column, row))
    const lastLines = wrapWhole(texts.at(-1) ?? '', lastWidth)
    return lastLines.map((lastLine, at) =>
      shown.map((column, index) => {
        const text = index === shown.length - 1 ? lastLine : at === 0 ? (texts[index] as string) : ''
        const name = column.style?.(row)
        return name === undefined || text === '' ? text : page.style(name, text)
      }),
    )
  })
  const right = [...shown.keys()].filter((at) => shown[at]?.align === 'right')
  const [head = '', ...lines] = formatTable([shown.map((column) => column.head), ...cells], right)
  return [page.style('bold', head), ...lines]
}

function textIn<Row>({ cell, maxColumns = Number.POSITIVE_INFINITY }: Column<Row>, row: Row): string {
  return excerpt(String(cell(row)), maxColumns)
}

/** Returns the columns of the widest line. */
export function widest(lines: readonly string[]): number {
  return lines.reduce((width, line) => Math.max(width, widthOf(line)), 0)
}

/**
 * Returns terms and what is said about each, in two columns. A text too long for its line continues
 * below itself.
 */
export function definitions(rows: ReadonlyArray<readonly [term: string, text: string]>, columns: number): string[] {
  const width = widest(rows.map(([term]) => term))
  return rows.flatMap(([term, text]) =>
    wrap(text, Math.max(columns - width - 2, minColumns)).map((line, at) =>
      `${padded(at === 0 ? term : '', width)}  ${line}`.trimEnd(),
    ),
  )
}

/** Breaks text between words into lines of at most so many columns. A longer word has its own line. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last === undefined || widthOf(last) + 1 + widthOf(word) > columns) lines.push(word)
    else lines[lines.length - 1] = `${last} ${word}`
  }
  return lines
}

/**
 * As {@link wrap}, but a word that is longer than a line is broken, and what does not fit into
 * {@link maxLines} lines is left out.
 */
function wrapWhole(text: string, columns: number): string[] {
  const lines = wrap(text, columns).flatMap((line) => pieces(line, columns))
  if (lines.length <= maxLines) return lines
  return [...lines.slice(0, maxLines - 1), excerpt(`${lines[maxLines - 1]}…${lines[maxLines]}`, columns)]
}

/** Breaks a line into pieces of at most so many columns. No character is cut in half. */
function pieces(line: string, columns: number): string[] {
  if (widthOf(line) <= columns) return [line]
  const all = ['']
  for (const { segment } of characters.segment(line)) {
    const last = all.at(-1) as string
    if (widthOf(last + segment) > columns) all.push(segment)
    else all[all.length - 1] = last + segment
  }
  return all
}

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
  if (columns === Number.POSITIVE_INFINITY) return visible(text)
  let shown = ''
  let width = 0
  /** The part of the text that leaves room for a `…`. */
  let fitting = ''
  for (const { segment } of characters.segment(text)) {
    const next = visible(segment)
    width += widthOf(next)
    if (width > columns || segment.length > maxUnits) return `${fitting}…`
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
const maxUnits = 32

const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉']

/** Returns a bar of at most `columns` columns. A value equal to `max` fills it. */
export function barOf(value: number, { max, columns }: { readonly max: number; readonly columns: number }): string {
  if (max <= 0 || value <= 0) return ''
  const parts = Math.max(1, Math.round((value / max) * columns * 8))
  return '█'.repeat(Math.floor(parts / 8)) + (eighths[parts % 8] as string)
}
