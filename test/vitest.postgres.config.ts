import ordinary from './vitest.config.ts'

/** The tests on a real PostgreSQL server, which they start themselves: see postgres/cluster.ts. */
export default {
  ...ordinary,
  test: { ...ordinary.test, include: ['postgres/*.server.ts'], testTimeout: 120_000, hookTimeout: 120_000 },
}
