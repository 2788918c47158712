import { parseArgs } from 'node:util'

/** The parsed command line. */
export interface Arguments {
  /** Names of the cases to run; all cases if the command line names none. */
  readonly cases: readonly string[]
  readonly isQuick: boolean
  /** Whether to measure nothing and only write the report again from earlier results. */
  readonly isRenderOnly: boolean
  /** Where journals are written. Default: the folder of the bench. */
  readonly directory: string | undefined
  /** Where results are written. Default: the folder of the bench, or nowhere for a quick run. */
  readonly out: string | undefined
}

export const usage = `npm run bench -- [case …] [--quick] [--dir DIRECTORY] [--out DIRECTORY] [--render]

  case …      only these; the sections of the others stay as they are
  --quick     tiny sizes, to see that everything runs; writes nothing unless --out says where
  --dir       where the journals are written, as a directory that is removed afterwards (default: bench)
  --out       where results.json, RESULTS.md and plots are written (default: bench)
  --render    measures nothing; writes RESULTS.md and plots from results.json`

/**
 * Parses the command line. `known` lists the names of all cases.
 *
 * @throws {TypeError} if an option is unknown or lacks its value, or if `--render` is combined with
 * `--quick` or with cases.
 * @throws {RangeError} if a case is unknown.
 */
export function parseArguments(given: readonly string[], known: readonly string[]): Arguments {
  const { values, positionals } = parseArgs({
    args: [...given],
    allowPositionals: true,
    options: {
      quick: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
      dir: { type: 'string' },
      out: { type: 'string' },
    },
  })
  const unknown = positionals.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new RangeError(`Expected a case of ${known.join(', ')}, got ${unknown}`)
  if (values.render && (values.quick || positionals.length > 0)) {
    throw new TypeError('Expected --render alone, or with --out: it measures nothing')
  }
  return {
    // In the order of `known`, each case once.
    cases: positionals.length === 0 ? known : known.filter((name) => positionals.includes(name)),
    isQuick: values.quick,
    isRenderOnly: values.render,
    directory: values.dir,
    out: values.out,
  }
}

/** The command that repeats one case, without the directories of this machine. */
export function commandFor(name: string, { isQuick, directory }: Arguments): string {
  const flags = [...(isQuick ? ['--quick'] : []), ...(directory === undefined ? [] : ['--dir DIRECTORY'])]
  return ['npm run bench --', name, ...flags].join(' ')
}
