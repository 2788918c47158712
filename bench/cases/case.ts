import type { Findings, PlotKind } from '../results.ts'

/** Something to be measured, found under its name on the command line and in the results. */
export interface Case {
  readonly name: string
  readonly title: string
  /** How it is measured and what the figures say, in paragraphs of Markdown. */
  readonly method: readonly string[]
  /** What is drawn of it. Default: whatever there is to draw. */
  readonly plots?: readonly PlotKind[]
  run(context: Context): Promise<Findings>
}

/** Where and how large. */
export interface Context {
  /** An empty directory, of the case's own. */
  readonly directory: string
  /** Whether only to see that everything runs. */
  readonly isQuick: boolean
  /** Tells what is being done. */
  progress(text: string): void
}
