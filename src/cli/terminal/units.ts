const steps = ['KiB', 'MiB', 'GiB', 'TiB']

/** Formats bytes as `999 B`, `9.4 KiB` or `3.1 MiB`. */
export function sizeText(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  let size = bytes / 1024
  let step = 0
  // A value that would print as 1024.0 moves to the next unit.
  for (; size >= 1023.95 && step < steps.length - 1; step++) size /= 1024
  return `${size.toFixed(1)} ${steps[step]}`
}

/** Formats a count with digits in groups of three: `7`, `1 234 567`. */
export function countText(count: number): string {
  return String(count).replaceAll(/\B(?=(?:\d{3})+$)/g, ' ')
}

/** Formats a count with its noun: `1 record`, `2 records`. */
export function plural(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? '' : 's'}`
}

/** Formats seconds, rounded up, as `9 s`, `3 min 20 s` or `2 h 5 min`. */
export function durationText(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}
