import type { Output } from './output.ts'
import { countText, durationText, sizeText } from './terminal.ts'

/** Minimum time between two redraws of a bar, in milliseconds. */
const frameMs = 100

const barColumns = 24

/** The progress that a bar shows: bytes done of a total, or, without a total, bytes and records. */
export interface Progress {
  readonly bytes: number
  readonly totalBytes?: number
  readonly records?: number
}

/**
 * One line on standard error that is redrawn with the rate and the time left. Prints nothing if the
 * output is not a terminal.
 */
export class ProgressBar {
  readonly #output: Output
  readonly #label: string
  readonly #now: () => number
  readonly #start: number
  #drawnMs: number
  #isDrawn = false

  /** @param now returns milliseconds from a clock that never goes backwards. */
  constructor(output: Output, label: string, now: () => number = () => performance.now()) {
    this.#output = output
    this.#label = label
    this.#now = now
    this.#start = now()
    this.#drawnMs = this.#start
  }

  /** Redraws the bar, unless it was drawn within the last 100 milliseconds. */
  update(progress: Progress): void {
    if (!this.#output.isTerminal) return
    const now = this.#now()
    if (now - this.#drawnMs < frameMs) return
    this.#drawnMs = now
    this.#isDrawn = true
    const line = progressLine(this.#label, progress, (now - this.#start) / 1000)
    // The last column stays free, because some terminals move to the next line after filling it.
    this.#draw(line.slice(0, this.#output.columns - 1))
  }

  /**
   * Removes the line at once, because the next text may go to another stream of the same terminal.
   */
  clear(): void {
    if (this.#isDrawn) this.#draw('')
    this.#isDrawn = false
  }

  #draw(line: string): void {
    this.#output.tellAtOnce(`\r\u001B[K${line}`)
  }
}

/** Returns the text of a bar after this many seconds. */
export function progressLine(label: string, progress: Progress, seconds: number): string {
  const { bytes, totalBytes, records } = progress
  const rate = `${sizeText(Math.round(bytes / seconds))}/s`
  if (totalBytes === undefined) {
    const count =
      records === undefined
        ? []
        : [`${countText(records)} records`, `${countText(Math.round(records / seconds))}/s`]
    return [label, ...count, sizeText(bytes), rate].join('  ')
  }
  const part = totalBytes === 0 ? 1 : Math.min(bytes / totalBytes, 1)
  const filled = Math.round(part * barColumns)
  const bar = '█'.repeat(filled) + '░'.repeat(barColumns - filled)
  const percent = `${String(Math.floor(part * 100)).padStart(3)} %`
  const left = part === 0 ? '' : `${durationText((seconds / part) * (1 - part))} left`
  return [label, bar, percent, `${sizeText(bytes)} of ${sizeText(totalBytes)}`, rate, left].join('  ')
}
