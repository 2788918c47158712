const steps = [
  { unit: 'ns', nanoseconds: 1 },
  { unit: 'µs', nanoseconds: 1e3 },
  { unit: 'ms', nanoseconds: 1e6 },
  { unit: 's', nanoseconds: 1e9 },
] as const

/**
 * Formats a time, such as `830 ns`, `1.24 µs` or `12.5 ms`. Shows three significant digits, or all
 * digits before the decimal point if there are more.
 */
export function timeText(nanoseconds: number): string {
  const step = steps.findLast((candidate) => nanoseconds >= candidate.nanoseconds) ?? steps[0]
  return `${digits(nanoseconds / step.nanoseconds)} ${step.unit}`
}

/** Formats a ratio, such as `0.873`, `1.19`, `12.5` or `1480`. */
export function ratioText(ratio: number): string {
  return digits(ratio)
}

function digits(value: number): string {
  const places = value >= 99.95 ? 0 : value >= 9.995 ? 1 : value >= 0.9995 ? 2 : 3
  return value.toFixed(places)
}
