import type { Comparison, Course, PlotKind, Role, Section } from '../results.ts'
import type { Plot } from './markdown.ts'
import { ratioText, timeText } from './units.ts'

/** The part of echarts that the bench uses. */
export interface Echarts {
  init(
    element: null,
    theme: null,
    options: { renderer: 'svg'; ssr: true; width: number; height: number },
  ): { setOption(option: object): void; renderToSVGString(): string; dispose(): void }
}

/** A plot and its SVG text. */
export interface Drawing extends Plot {
  readonly svg: string
}

const width = 860
const namesWidth = 290
const rowHeight = 24
const font = 'Helvetica, Arial, sans-serif'
const colors: Readonly<Record<Role, string>> = { floor: '#8c8c8c', library: '#d9480f', peer: '#9bb8d3' }
const lineColors = ['#9bb8d3', '#4a7aa7', '#d9480f']
const weights: Readonly<Record<Role, string>> = { floor: 'normal', library: 'bold', peer: 'normal' }
const ink = '#222222'

/**
 * Draws the plots of a section that its `plots` allows: one of all ratios, one of all latencies,
 * and one of each course.
 */
export function drawSection(echarts: Echarts, section: Section): Drawing[] {
  const { name, title, comparisons, courses, plots } = section
  const isWanted = (kind: PlotKind): boolean => plots === undefined || plots.includes(kind)
  const withLatency = comparisons.filter(({ rows }) => rows.some(({ latency }) => latency !== undefined))
  const drawings: Drawing[] = []
  const add = (kind: PlotKind, text: string, height: number, option: object): void => {
    const svg = render(echarts, height, option)
    drawings.push({ section: name, file: `plots/${name}-${kind}.svg`, text: `${title}: ${text}`, svg })
  }
  if (comparisons.length > 0 && isWanted('ratios')) {
    const heading = `${title}: time as a multiple of the floor's (shorter is better)`
    const { option, height } = panels(heading, comparisons, ratioPanel)
    add('ratios', 'ratios to the floor', height, option)
  }
  if (withLatency.length > 0 && isWanted('latency')) {
    const heading = `${title}: latency, ● p50  ◆ p99  ▲ max (log scale)`
    const { option, height } = panels(heading, withLatency, latencyPanel)
    add('latency', 'p50, p99 and max of the latency', height, option)
  }
  if (isWanted('course')) {
    for (const course of courses) add('course', course.label, 380, courseOption(title, course))
  }
  return drawings
}

/**
 * One comparison's part of an echarts option: its value axis, and its series before they are
 * assigned to axes.
 */
interface Panel {
  readonly axis: object
  readonly series: readonly object[]
}

/** Stacks comparisons in one picture, with names on the left and a separate scale for each. */
function panels(
  heading: string,
  comparisons: readonly Comparison[],
  draw: (comparison: Comparison) => Panel,
): { readonly option: object; readonly height: number } {
  let top = 40
  const parts = comparisons.map((comparison, index) => {
    const { label, rows } = comparison
    const { axis, series } = draw(comparison)
    const height = rows.length * rowHeight
    const grid = { left: namesWidth, right: 60, top: top + 28, height }
    const title = { text: label, left: 12, top, textStyle: { fontSize: 13, fontFamily: font, color: ink } }
    top += 28 + height + 40
    const names = {
      type: 'category',
      inverse: true,
      gridIndex: index,
      data: rows.map(({ name, role }) => ({ value: name, textStyle: { fontWeight: weights[role] } })),
      axisTick: { show: false },
      axisLabel: { color: ink, fontFamily: font, fontSize: 12, interval: 0 },
    }
    return {
      grid,
      title,
      xAxis: { ...axis, gridIndex: index },
      yAxis: names,
      series: series.map((one) => ({ ...one, xAxisIndex: index, yAxisIndex: index })),
    }
  })
  const option = {
    title: [headingOf(heading), ...parts.map(({ title }) => title)],
    grid: parts.map(({ grid }) => grid),
    xAxis: parts.map(({ xAxis }) => xAxis),
    yAxis: parts.map(({ yAxis }) => yAxis),
    series: parts.flatMap(({ series }) => series),
  }
  return { option, height: top }
}

function ratioPanel({ rows }: Comparison): Panel {
  const bars = {
    type: 'bar',
    barWidth: 15,
    data: rows.map(({ ratio, role }) => ({
      value: Number(ratio.median.toPrecision(4)),
      itemStyle: { color: colors[role] },
      label: { ...barLabel, formatter: ratioText(ratio.median) },
    })),
    markLine: {
      silent: true,
      symbol: 'none',
      // Draws the line below the bars and their labels.
      z: 0,
      label: { show: false },
      lineStyle: { color: ink, type: 'dashed', width: 1 },
      data: [{ xAxis: 1 }],
    },
  }
  return { axis: { type: 'value', min: 0, ...axisStyle }, series: [bars] }
}

function latencyPanel({ rows }: Comparison): Panel {
  const points = (kind: 'p50' | 'p99' | 'max', symbol: string): object => ({
    type: 'scatter',
    symbol,
    symbolSize: 10,
    data: rows.flatMap(({ latency, role }, row) => {
      if (latency === undefined) return []
      return [{ value: [Math.round(latency[kind]), row], itemStyle: { color: colors[role] } }]
    }),
  })
  const spans = rows.flatMap(({ latency, role }, row) => {
    if (latency === undefined) return []
    const lineStyle = { color: colors[role], type: 'solid', width: 2 }
    return [[{ coord: [Math.round(latency.p50), row], lineStyle }, { coord: [Math.round(latency.max), row] }]]
  })
  const markLine = { silent: true, symbol: 'none', label: { show: false }, data: spans }
  const all = rows.flatMap(({ latency }) => (latency === undefined ? [] : [latency.p50, latency.max]))
  const axis = {
    type: 'log',
    min: 10 ** Math.floor(Math.log10(Math.min(...all))),
    max: 10 ** Math.ceil(Math.log10(Math.max(...all))),
    ...axisStyle,
    axisLabel: { ...axisStyle.axisLabel, formatter: (time: number) => timeText(time).replace(/\.0+ /, ' ') },
  }
  const median = { ...points('p50', 'circle'), markLine }
  return { axis, series: [median, points('p99', 'diamond'), points('max', 'triangle')] }
}

function courseOption(title: string, { label, along, upward, lines }: Course): object {
  return {
    title: headingOf(`${title}: ${label}`),
    legend: { top: 34, left: 70, textStyle: { color: ink, fontFamily: font } },
    grid: { left: 70, right: 40, top: 80, bottom: 60 },
    xAxis: {
      type: 'log',
      name: `${along} (log scale)`,
      nameLocation: 'middle',
      nameGap: 32,
      nameTextStyle: { color: ink },
      ...axisStyle,
      // Values computed from a logarithm are not exact powers of ten.
      axisLabel: { ...axisStyle.axisLabel, formatter: (value: number) => `${Number(value.toPrecision(1))}` },
    },
    yAxis: {
      type: 'value',
      name: upward,
      nameLocation: 'middle',
      nameGap: 46,
      nameTextStyle: { color: ink },
      ...axisStyle,
    },
    series: lines.map(({ name, points }, index) => ({
      type: 'line',
      name,
      showSymbol: false,
      lineStyle: { width: 2 },
      color: lineColors[index % lineColors.length],
      data: points.map(([x, y]) => [Number(x.toPrecision(3)), Number(y.toPrecision(3))]),
    })),
  }
}

const barLabel = {
  show: true,
  position: 'right',
  color: ink,
  fontFamily: font,
  textBorderColor: '#ffffff',
  textBorderWidth: 3,
}

const axisStyle = {
  axisLabel: { color: '#555555', fontFamily: font, fontSize: 11, hideOverlap: true },
  axisLine: { show: true, lineStyle: { color: '#999999' } },
  splitLine: { show: true, lineStyle: { color: '#eeeeee' } },
}

function headingOf(text: string): object {
  return { text, left: 12, top: 10, textStyle: { fontSize: 15, fontFamily: font, color: ink } }
}

function render(echarts: Echarts, height: number, option: object): string {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width, height })
  // GitHub shows a transparent picture on the color of the page, which may be black.
  chart.setOption({ animation: false, backgroundColor: '#ffffff', ...option })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${plain(svg).trimEnd()}\n`
}

/**
 * Removes the parts of a picture that only serve a mouse pointer. Also centers texts with a `dy`
 * shift instead of the `dominant-baseline` that echarts writes, because not every viewer supports
 * the latter.
 */
function plain(svg: string): string {
  return svg
    .replace(/<style ?>[\s\S]*?<\/style>\n?/, '')
    .replaceAll(/ (?:class|pointer-events|xml:space)="[^"]*"/g, '')
    .replaceAll(`font-family:${font};`, '')
    .replace('<svg ', `<svg font-family="${font}" `)
    .replaceAll(' dominant-baseline="central"', ' dy="0.35em"')
}
