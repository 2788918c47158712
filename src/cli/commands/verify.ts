import type { MiniStoreError } from '../../errors.ts'
import { type Verification, verifyJournal } from '../../maintenance/verify.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { damageReport, type DamageReport, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { lineCodec, readWhole } from '../journal.ts'
import { padded } from '../render.ts'
import { jsonLine, plural, shellWord, sizeText, type Style, styleFor, visible } from '../terminal.ts'

export const verify: Command = {
  name: 'verify',
  summary: 'reads everything and reports all damage',
  positionals: ['JOURNAL'],
  options: { 'no-json': commonOptions.noJson, json: commonOptions.json },
  details: [
    'Checks headers, order, chain, seal and UTF-8, and that every line is JSON. Changes nothing. The',
    'exit code is 1 if there is damage. A torn last line is not damage: it was never acknowledged, and',
    'the next open removes it.',
  ],
  examples: ['ministore verify journal.jsonl', 'ministore verify --json journal.jsonl | jq .damages'],
  run: runVerify,
}

/**
 * Prints damage as it is found, so that it need not fit into memory. A failure to print does not
 * stop the reading; it shows only at the final flush. If the pipe was closed, the exit code still
 * tells about the journal.
 */
async function runVerify(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const isJson = args.flag('json')
  const style = styleFor(io.stdout, io)
  // All JSON is one object, whose list of damages is printed item by item.
  const head = isJson
    ? jsonLine({ journal: path, damages: [] }).slice(0, -']}\n'.length)
    : `${style('bold', rowText(['segment', 'line', 'offset', 'sequence', 'damage']))}\n`
  let damages = 0
  const tell = (damage: MiniStoreError): void => {
    const report = damageReport(damage)
    const text = isJson ? jsonLine(report).trimEnd() : damageLine(report, style)
    io.stdout.tell(`${damages++ === 0 ? head : isJson ? ',' : ''}${text}`)
  }
  const codec = args.flag('no-json') ? lineCodec({ isJson: false }) : undefined
  const result = await readWhole(path, { label: 'verify', io }, (fs, bar) => {
    const onDamage = (damage: MiniStoreError): void => {
      bar.clear()
      tell(damage)
    }
    return verifyJournal(fs, path, { onDamage, codec, signal: io.signal })
  })
  const end = isJson
    ? `${damages === 0 ? head : ''}],${jsonLine(factsOf(result)).slice(1)}`
    : linesOf(result, { path, style }).map((line) => `${line}\n`).join('')
  io.stdout.tell(end)
  return damages === 0 ? exitCodes.ok : exitCodes.failed
}

function factsOf(result: Verification | undefined): object {
  const { segments = 0, bytes = 0, records = 0, firstSequence = 1, lastSequence = 0, damages = 0 } = result ?? {}
  const { torn, isActiveMissing = true } = result ?? {}
  return {
    isSound: damages === 0,
    damageCount: damages,
    segments,
    bytes,
    records,
    firstSequence,
    lastSequence,
    torn: torn === undefined ? null : {
      segment: torn.segment,
      sequence: torn.sequence,
      offset: torn.offset,
      bytes: torn.bytes,
      reason: torn.reason,
    },
    isActiveMissing,
  }
}

function damageLine({ segment, line, offset, sequence, reason }: DamageReport, style: Style): string {
  const numbers = [line, offset, sequence].map((number) => String(number ?? '-'))
  return `${rowText([visible(segment ?? '-'), ...numbers, style('red', visible(reason))])}\n`
}

/** The columns have a fixed width, because the longest values are known only at the end. */
function rowText([segment = '', line = '', offset = '', sequence = '', damage = '']: readonly string[]): string {
  return [padded(segment, 18), line.padStart(7), offset.padStart(10), sequence.padStart(8), damage].join('  ')
}

function linesOf(
  result: Verification | undefined,
  { path, style }: { readonly path: string; readonly style: Style },
): string[] {
  if (result === undefined) return ['The journal is empty: the next open writes its header.']
  const { segments, bytes, records, damages, firstSequence, lastSequence, torn, isActiveMissing } = result
  const range = records === 0 ? '' : ` (${firstSequence} to ${lastSequence})`
  const what = `${plural(records, 'record')}${range} in ${plural(segments, 'segment')}, ${sizeText(bytes)}`
  if (damages > 0) {
    const places = style('red', `damage in ${plural(damages, 'place')}`)
    return [`${places}; readable: ${what}`, `To see how to repair it: ministore repair ${shellWord(path)}`]
  }
  const lines = [`${style('green', 'ok')}: ${what}`]
  const note = style('yellow', 'note')
  if (torn !== undefined) {
    const { segment, offset, reason } = torn
    const where = `the last ${sizeText(torn.bytes)} of ${visible(segment)}, from offset ${offset} on, are torn`
    lines.push(`${note}: ${where}: ${visible(reason)}.`)
    lines.push('  This is not damage: an append is under way, or the next open removes them.')
  }
  if (isActiveMissing) {
    lines.push(`${note}: there is no active segment, as after a crash in a rotation. The next open creates one.`)
  }
  return lines
}
