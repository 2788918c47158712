import { appendAllCase } from './append-all.ts'
import { appendCase } from './append.ts'
import { bytesCase } from './bytes.ts'
import type { Case } from './case.ts'
import { durabilityCase } from './durability.ts'
import { followersCase } from './followers.ts'
import { queueCase } from './queue.ts'
import { replayCase } from './replay.ts'
import { replicateCase } from './replicate.ts'
import { scaleCase } from './scale.ts'
import { segmentsCase } from './segments.ts'
import { startStopCase } from './start-stop.ts'
import { stateCase } from './state.ts'

/** All cases, in the order in which they run and are reported. */
export const cases: readonly Case[] = [
  appendCase,
  appendAllCase,
  replayCase,
  bytesCase,
  replicateCase,
  followersCase,
  scaleCase,
  segmentsCase,
  startStopCase,
  stateCase,
  queueCase,
  durabilityCase,
]
