import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { loadPackage, NotInstalledError } from '../packages.ts'
import type { Section } from '../results.ts'
import { resultsText } from './markdown.ts'
import { type Drawing, drawSection, type Echarts } from './plots.ts'

/**
 * Writes RESULTS.md and its plots to an existing folder, and removes earlier plots. If echarts is
 * not installed, writes no plots and says so on standard error.
 */
export async function writeReport(folder: string, sections: readonly Section[]): Promise<void> {
  const drawings = await draw(sections)
  const plots = join(folder, 'plots')
  await rm(plots, { recursive: true, force: true })
  if (drawings.length > 0) await mkdir(plots)
  for (const { file, svg } of drawings) await writeFile(join(folder, file), svg)
  await writeFile(join(folder, 'RESULTS.md'), resultsText(sections, drawings))
}

async function draw(sections: readonly Section[]): Promise<Drawing[]> {
  try {
    const { exports: echarts } = await loadPackage<Echarts>('echarts')
    return sections.flatMap((section) => drawSection(echarts, section))
  } catch (error) {
    if (!(error instanceof NotInstalledError)) throw error
    process.stderr.write(`no plots: echarts is ${error.message}\n`)
    return []
  }
}
