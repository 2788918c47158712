import type { Findings, PlotKind } from '../results.ts'

/** A benchmark case. Its name selects it on the command line and identifies it in the results. */
export interface Case {
  readonly name: string
  readonly title: string
  /** How the case is measured and what its figures mean, in paragraphs of Markdown. */
  readonly method: readonly string[]
  /** The plots to draw. Default: every plot that the findings allow. */
  readonly plots?: readonly PlotKind[]
  run(context: Context): Promise<Findings>
}

/** Where a case runs, at what size, and how it reports progress. */
export interface Context {
  /** An empty directory that only this case uses. */
  readonly directory: string
  /** Whether to use tiny sizes, only to check that everything runs. */
  readonly isQuick: boolean
  /** Reports the current step. */
  progress(text: string): void
}
