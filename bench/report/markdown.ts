import type { Comparison, Course, Figures, Participant, Row, Section } from '../results.ts'
import { ratioText, timeText } from './units.ts'

/**
 * A drawn plot: its section, its file relative to RESULTS.md, and a text that says what it shows.
 */
export interface Plot {
  readonly section: string
  readonly file: string
  readonly text: string
}

/** Returns the full text of RESULTS.md. */
export function resultsText(sections: readonly Section[], plots: readonly Plot[]): string {
  const intro = [
    '# Results',
    'Written by `npm run bench` from `results.json`. The command below a heading measures that part again.',
    "A **ratio** is a contestant's time divided by that of the floor, the least that the work can cost, in " +
      'the same round: 1.00 is as fast as the floor, and smaller is better. The figure is the median over the ' +
      'rounds; the middle half of the rounds lies in the brackets. *vs ministore* is the same against this ' +
      'library: above 1, the library is faster. Each section names the machine of its figures. Across ' +
      'machines, compare ratios, not times.',
  ]
  const parts = sections.flatMap((section) => [
    sectionText(section).trimEnd(),
    ...plots.filter((plot) => plot.section === section.name).map(({ file, text }) => `![${text}](${file})`),
  ])
  if (sections.length === 0) parts.push('Nothing has been measured yet.')
  return `${[...intro, ...parts].join('\n\n')}\n`
}

/** Returns one section of RESULTS.md with all its tables, without plots. */
export function sectionText(section: Section): string {
  const { machine } = section
  const where = [
    section.date,
    `Node ${machine.node}`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.memory}`,
    `${machine.fileSystem} on ${machine.kernel}`,
    `load before ${machine.load.toFixed(1)}`,
  ]
  const blocks = [
    `## ${section.title}`,
    `${where.join(' · ')} · \`${section.command}\` (${section.seconds} s)`,
    ...section.method,
    ...section.comparisons.flatMap(comparisonBlocks),
    ...section.figures.flatMap(figuresBlocks),
    ...section.courses.flatMap(courseBlocks),
    ...participantBlocks(section.participants),
    ...section.missing.map(({ name, reason }) => `Not measured: ${name} (${reason}).`),
  ]
  return `${blocks.join('\n\n')}\n`
}

function comparisonBlocks({ label, unit, rounds, rows }: Comparison): string[] {
  const floor = rows.find(({ role }) => role === 'floor')
  const hasLatency = rows.some(({ latency }) => latency !== undefined)
  const latencies = hasLatency ? ['p50', 'p99 (ratio)', 'max'] : []
  const head = ['', 'ratio', 'vs ministore', `time per ${unit}`, ...latencies, 'notes']
  const body = rows.map((row) => [
    nameOf(row),
    row.role === 'floor' ? '1.00' : ratioCell(row),
    ratioText(row.versusLibrary.median),
    timeText(row.time),
    ...(hasLatency ? latencyCells(row, floor) : []),
    row.notes.join('; '),
  ])
  return [`### ${label} rounds=${rounds}`, tableText(head, body), ...explanations(rows)]
}

/** For each peer that is faster than the library, a sentence that says why. */
function explanations(rows: readonly Row[]): string[] {
  const sentences = rows
    .filter(({ role, versusLibrary }) => role === 'peer' && versusLibrary.median < 1)
    .map(({ name, versusLibrary, because = 'for no single reason that we know of' }) => {
      const range = `${ratioText(versusLibrary.p25)}–${ratioText(versusLibrary.p75)}`
      const reason = versusLibrary.p75 < 1 ? because : 'not in all rounds, so this may be chance'
      return `- ${name} takes ${ratioText(versusLibrary.median)} (${range}) of the library's time: ${reason}.`
    })
  return sentences.length === 0 ? [] : [sentences.join('\n')]
}

function nameOf({ name, role }: Row): string {
  if (role === 'library') return `**${name}**`
  return role === 'floor' ? `${name} (floor)` : name
}

function ratioCell({ ratio, role }: Row): string {
  const text = ratioText(ratio.median)
  const middle = role === 'library' ? `**${text}**` : text
  return `${middle} (${ratioText(ratio.p25)}–${ratioText(ratio.p75)})`
}

function latencyCells({ latency }: Row, floor: Row | undefined): string[] {
  if (latency === undefined) return ['', '', '']
  const { p50, p99, max } = latency
  const ratio = floor?.latency === undefined ? '' : ` (${ratioText(p99 / floor.latency.p99)})`
  return [timeText(p50), `${timeText(p99)}${ratio}`, timeText(max)]
}

function figuresBlocks({ label, columns, rows }: Figures): string[] {
  return [`### ${label}`, tableText(['', ...columns], rows.map(({ name, cells }) => [name, ...cells]))]
}

/** Summarizes each line of a course by its extremes and its last value. The plot shows the rest. */
function courseBlocks({ label, along, upward, lines }: Course): string[] {
  const body = lines.map(({ name, points }) => {
    const heights = points.map(([, height]) => height)
    const some = [Math.min(...heights), Math.max(...heights), heights.at(-1) ?? 0]
    return [name, String(points.length), ...some.map((height) => height.toFixed(1))]
  })
  const table = tableText(['', 'samples', 'least', 'most', 'at the end'], body)
  return [`### ${label}: ${upward}, over ${along}`, table]
}

function participantBlocks(participants: readonly Participant[]): string[] {
  if (participants.length === 0) return []
  const hasPromises = participants.some(({ promise }) => promise !== '')
  const head = ['measured', 'version', ...(hasPromises ? ['what it promises'] : [])]
  const body = participants.map(({ name, version, promise }) =>
    hasPromises ? [name, version, promise] : [name, version],
  )
  return [tableText(head, body)]
}

function tableText(head: readonly string[], body: ReadonlyArray<readonly string[]>): string {
  // Numbers are aligned to the right, words to the left.
  const isNumeric = (column: number): boolean =>
    body.every((cells) => /^(?:\W*\d|$)/.test(cells[column] ?? ''))
  const rule = head.map((_, column) => (column > 0 && isNumeric(column) ? '---:' : '---'))
  return [head, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}
