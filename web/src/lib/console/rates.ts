// Messages per second of each actor, from the counters in two looks. Pure.

export type Sample = { handled: number; rate: number };
type Counted = { key: string; handled: number };

/** How much the newest interval counts against what was known: smooth enough to read, quick enough to follow. */
const WEIGHT = 0.4;
const SILENT_BELOW = 0.05;
/** Looks that follow each other more closely say little about a rate: the later one is left out. */
const ELAPSED_MS_MIN = 200;

/** What is known after a look, or nothing when it came too soon after the one before. */
export function sample(before: ReadonlyMap<string, Sample>, reports: readonly Counted[], elapsedMs: number): Map<string, Sample> | null {
  if (before.size > 0 && elapsedMs < ELAPSED_MS_MIN) return null;
  const after = new Map<string, Sample>();
  for (const report of reports) {
    const known = before.get(report.key);
    if (!known) {
      after.set(report.key, { handled: report.handled, rate: 0 });
      continue;
    }
    const now = Math.max(0, report.handled - known.handled) / (elapsedMs / 1000);
    const rate = known.rate + WEIGHT * (now - known.rate);
    after.set(report.key, { handled: report.handled, rate: now === 0 && rate < SILENT_BELOW ? 0 : rate });
  }
  return after;
}
