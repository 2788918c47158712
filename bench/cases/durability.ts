import { execFile } from 'node:child_process'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { appenders, loadAll } from '../contestants/index.ts'
import { compiledFolder } from '../folders.ts'
import { firstLine } from '../packages.ts'
import type { Case, Context } from './case.ts'

const run = promisify(execFile)

export const durabilityCase: Case = {
  name: 'durability',
  title: 'Syncs per append',
  method: [
    'Whether contestants promise the same: strace counts the calls of `fsync`, `fdatasync` and `msync` ' +
      'of a process that appends, and of one that does not; the difference is divided by the appends. ' +
      'With 1.00 for one caller, every append was synced by itself before the next one began; less with ' +
      '64 callers says that they shared syncs, more that there was other work to be synced too (a ' +
      'checkpoint, a rotation).',
  ],
  async run(context) {
    const { loaded, missing } = await loadAll(appenders)
    try {
      await run('strace', ['-V'])
    } catch (error) {
      return { missing: [...missing, { name: 'strace', reason: `cannot be run: ${firstLine(error)}` }] }
    }
    const appends = context.isQuick ? 64 : 640
    const names = Object.keys(appenders).filter((name) => !missing.some((lacking) => lacking.name === name))
    const rows: Array<{ readonly name: string; readonly cells: readonly string[] }> = []
    const untraced: Array<{ readonly name: string; readonly reason: string }> = []
    for (const [index, name] of names.entries()) {
      context.progress(name)
      try {
        const none = await countSyncs(context, { name, appends: 0, callers: 1 })
        const alone = await countSyncs(context, { name, appends, callers: 1 })
        const together = await countSyncs(context, { name, appends, callers: 64 })
        const cells = [alone, together].map((syncs) => ((syncs - none) / appends).toFixed(2))
        rows.push({ name: loaded[index]?.name ?? name, cells })
      } catch (error) {
        // Tracing may not be permitted, as in many containers.
        untraced.push({ name: `${name} under strace`, reason: firstLine(error) })
      }
    }
    const label = `syncs per append, of ${appends}`
    const figures = rows.length === 0 ? [] : [{ label, columns: ['1 caller', '64 callers'], rows }]
    return { figures, missing: [...missing, ...untraced] }
  },
}

async function countSyncs(
  context: Context,
  options: { readonly name: string; readonly appends: number; readonly callers: number },
): Promise<number> {
  const directory = join(context.directory, 'traced')
  await mkdir(directory)
  const trace = join(directory, 'trace')
  const { name, appends, callers } = options
  const program = join(compiledFolder, 'children/append-some.js')
  const given = [name, join(directory, 'log'), String(appends), String(callers)]
  const flags = ['-f', '-qq', '-e', 'trace=fsync,fdatasync,msync', '-o', trace]
  await run('strace', [...flags, process.execPath, program, ...given])
  const calls = (await readFile(trace, 'utf8')).match(/\b(?:fsync|fdatasync|msync)\(/g) ?? []
  await rm(directory, { recursive: true })
  return calls.length
}
