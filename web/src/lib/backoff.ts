// How long to wait before the next attempt: exponential with full jitter, bounded (AWS Architecture Blog, 2015).

const FIRST_MS = 250;
const LONGEST_MS = 15_000;

export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return ceiling / 2 + random() * (ceiling / 2);
}
