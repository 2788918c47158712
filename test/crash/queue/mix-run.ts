import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { createRandom, type Random } from '../../../src/testing/random.ts'
import { openQueue } from '../../miniqueue/support.ts'
import { SteppedClock } from './clock.ts'
import type { MixMode, MixWorld } from './mix-caller.ts'
import { pick } from './mix-chance.ts'
import { DurableAttempts } from './mix-durable.ts'
import { type FoundMessages, MixLedger } from './mix-ledger.ts'
import { MixLife } from './mix-life.ts'
import { type MixCounts, MixLog } from './mix-log.ts'

const lives = 3
/** Longer than any delay, so afterwards everything is due. */
const allDueAfterMs = 86_400_000

/**
 * Opens and closes one queue several times, and checks the disk after each close. Throws what is
 * wrong.
 */
export async function runQueueMix(seed: number, counts: MixCounts): Promise<void> {
  const random = createRandom(seed)
  const mode = modeOf(random)
  const log = new MixLog()
  const world: MixWorld = {
    mode,
    random,
    log,
    counts,
    files: new SimulatedFileSystem(),
    clock: new SteppedClock(),
    ledger: new MixLedger(log, mode),
    durable: mode.compacts ? undefined : new DurableAttempts(),
  }
  log.note(JSON.stringify(mode))
  try {
    for (let life = 0; life < lives; life++) await live(`${life}`, world)
  } catch (error) {
    throw new Error(`seed ${seed} (MINISTORE_SEED=${seed} begins with it): ${String(error)}\n${String(log)}`, {
      cause: error,
    })
  }
  counts.runs += 1
  counts.takenBack += world.durable?.takenBack ?? 0
}

function modeOf(random: Random): MixMode {
  return {
    maxAttempts: pick(random, [1, 2, 3, 1000]),
    fillsDisk: random.below(2) === 0,
    compacts: random.below(2) === 0,
  }
}

async function live(name: string, world: MixWorld): Promise<void> {
  const life = await MixLife.open(name, world)
  const { hadRoom } = await life.run()
  world.ledger.compare(await find(world), { isExact: hadRoom })
  world.log.throwIfWrong()
}

/** Returns what the next process finds. */
async function find({ files, clock }: MixWorld): Promise<FoundMessages> {
  const { queue } = await openQueue({
    files: files.afterKill(),
    clock: new SteppedClock(clock.wallMs() + allDueAfterMs),
    maxAttempts: Infinity,
  })
  const messages = await queue.receive({ max: 1_000_000 })
  const letters = queue.deadLetters()
  await queue.close()
  return {
    messages: new Map(messages.map(({ payload, attempt }) => [payload, attempt - 1])),
    dead: new Map(letters.map(({ payload, attempts }) => [payload, attempts])),
  }
}
