/**
 * Throws unless the claim holds. Its own function: a run checks very many claims, and an
 * error with a sentence shrinks and prints better than a difference of two values.
 */
export function assertThat(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
