import type { MiniStoreError } from '../../errors.ts'
import { type Verification, verifyJournal } from '../../maintenance/verify.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { damageReport, type DamageReport } from '../damage.ts'
import { exitCodes } from '../exit-codes.ts'
import { type Io, lineCodec } from '../io.ts'
import { assertThere, countingFileSystem, outlineOf } from '../journal.ts'
import { ProgressBar } from '../terminal/progress-bar.ts'
import { shellWord } from '../terminal/shell-word.ts'
import { styleFor, visible, visibleJson } from '../terminal/style.ts'
import { padded } from '../terminal/table.ts'
import { plural, sizeText } from '../terminal/units.ts'

export const verify: Command = {
  name: 'verify',
  summary: 'reads everything and reports every damage',
  positionals: ['JOURNAL'],
  options: { 'no-json': commonOptions.noJson, json: commonOptions.json },
  details: [
    'Checks headers, order, chain, seal, UTF-8 and that every line is JSON. Changes nothing. The exit',
    'code is 1 when there is damage. A torn last line is none: it was never acknowledged, and the next',
    'open cuts it off.',
  ],
  examples: [
    'ministore verify state/journal.jsonl',
    'ministore verify --json state/journal.jsonl | jq .damages',
  ],
  run: runVerify,
}

async function runVerify(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const printer = args.flag('json') ? new JsonPrinter(path, io) : new TextPrinter(path, io)
  const outline = await outlineOf(path, { salvage: () => {}, signal: io.signal })
  const totalBytes = outline?.view.segments.reduce((sum, { bytes }) => sum + bytes, 0) ?? 0
  const bar = new ProgressBar(io.stderr, 'verify')
  let bytes = 0
  const fileSystem = countingFileSystem((read) => {
    bytes += read
    bar.update({ bytes, totalBytes })
  })
  const onDamage = (damage: MiniStoreError): void => {
    bar.clear()
    printer.damage(damageReport(damage))
  }
  const codec = args.flag('no-json') ? lineCodec({ isJson: false }) : undefined
  const result = await verifyJournal(fileSystem, path, { onDamage, codec, signal: io.signal }).finally(() =>
    bar.clear(),
  )
  if (result === undefined) await assertThere(path)
  printer.end(result)
  return result === undefined || result.damages === 0 ? exitCodes.ok : exitCodes.failed
}

/**
 * Prints damage as it is found, whatever the amount. A failure to print does not stop the reading;
 * it shows only at the final flush. If the pipe was closed, the exit code still tells about the
 * journal.
 */
interface Printer {
  damage(report: DamageReport): void
  end(result: Verification | undefined): void
}

class TextPrinter implements Printer {
  readonly #path: string
  readonly #io: Io
  #hasHead = false

  constructor(path: string, io: Io) {
    this.#path = path
    this.#io = io
  }

  damage({ segment, line, offset, sequence, reason }: DamageReport): void {
    const style = styleFor(this.#io.stdout, this.#io)
    if (!this.#hasHead)
      this.#print(style('bold', this.#row(['segment', 'line', 'offset', 'sequence', 'damage'])))
    this.#hasHead = true
    const numbers = [line, offset, sequence].map((number) => String(number ?? '-'))
    this.#print(this.#row([visible(segment ?? '-'), ...numbers, style('red', visible(reason))]))
  }

  end(result: Verification | undefined): void {
    const style = styleFor(this.#io.stdout, this.#io)
    if (result === undefined) {
      this.#print('The journal is empty: the next open writes its header.')
      return
    }
    const { segments, bytes, records, damages, firstSequence, lastSequence } = result
    const range = records === 0 ? '' : ` (${firstSequence} to ${lastSequence})`
    const what = `${plural(records, 'record')}${range} in ${plural(segments, 'segment')}, ${sizeText(bytes)}`
    if (damages === 0) {
      this.#print(`${style('green', 'ok')}: ${what}`)
    } else {
      this.#print(`${style('red', plural(damages, 'damage'))}; readable are ${what}`)
      this.#print(`To see what can be done: ministore repair ${shellWord(this.#path)}`)
      return
    }
    for (const note of notesOf(result)) this.#print(`${style('yellow', 'note')}: ${note}`)
  }

  /** The columns have a fixed width, because the longest values are known only at the end. */
  #row([segment = '', line = '', offset = '', sequence = '', damage = '']: readonly string[]): string {
    const numbers = [line.padStart(8), offset.padStart(11), sequence.padStart(10)]
    return [padded(segment, 24), ...numbers, damage].join('  ')
  }

  #print(line: string): void {
    this.#io.stdout.tell(`${line}\n`)
  }
}

function notesOf({ torn, isActiveMissing }: Verification): string[] {
  const notes: string[] = []
  if (torn !== undefined) {
    const { segment, offset, bytes, reason } = torn
    const where = `${sizeText(bytes)} at the end of ${visible(segment)} (offset ${offset})`
    notes.push(
      `${where} are torn: ${visible(reason)}. No damage: the next open cuts them off, or a writer is at work.`,
    )
  }
  if (isActiveMissing)
    notes.push('There is no active segment, as after a crash in a rotation. The next open makes one.')
  return notes
}

/**
 * Prints one JSON object. Damages are printed as they are found, so they need not fit into memory.
 */
class JsonPrinter implements Printer {
  readonly #path: string
  readonly #io: Io
  #isBegun = false

  constructor(path: string, io: Io) {
    this.#path = path
    this.#io = io
  }

  damage(report: DamageReport): void {
    this.#print(`${this.#isBegun ? ',' : this.#head()}${visibleJson(JSON.stringify(report))}`)
    this.#isBegun = true
  }

  end(result: Verification | undefined): void {
    const {
      segments = 0,
      bytes = 0,
      records = 0,
      firstSequence = 1,
      lastSequence = 0,
      damages = 0,
    } = result ?? {}
    const { torn = null, isActiveMissing = true } = result ?? {}
    const facts = {
      isSound: damages === 0,
      damageCount: damages,
      segments,
      bytes,
      records,
      firstSequence,
      lastSequence,
      torn:
        torn === null
          ? null
          : {
              segment: torn.segment,
              sequence: torn.sequence,
              offset: torn.offset,
              bytes: torn.bytes,
              reason: torn.reason,
            },
      isActiveMissing,
    }
    this.#print(`${this.#isBegun ? '' : this.#head()}],${visibleJson(JSON.stringify(facts).slice(1))}\n`)
  }

  #head(): string {
    return `{"journal":${visibleJson(JSON.stringify(this.#path))},"damages":[`
  }

  #print(text: string): void {
    this.#io.stdout.tell(text)
  }
}
