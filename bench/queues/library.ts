import type * as miniqueue from '../../src/miniqueue/index.ts'
import { brickUrl } from '../library.ts'

export const { MiniQueue } = (await import(brickUrl('miniqueue'))) as typeof miniqueue
