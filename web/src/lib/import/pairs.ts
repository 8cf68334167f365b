// Headers and environment variables as rows of a form. A value is shown only while it is typed: what is saved is a
// secret that the node never tells again. Pure.

export type Pair = { id: number; name: string; value: string; kept: boolean; removed: boolean };

let nextId = 1;

export function newPair(): Pair {
  return { id: nextId++, name: "", value: "", kept: false, removed: false };
}

/** The rows of a server that exists: its values stay as they are unless a new one is typed. */
export function pairsOf(saved: Record<string, string | undefined>): Pair[] {
  return Object.keys(saved).map((name) => ({ id: nextId++, name, value: "", kept: true, removed: false }));
}

export function recordOf(pairs: Pair[]): Record<string, string> | undefined {
  const named = pairs.filter((pair) => pair.name.trim() !== "" && !pair.removed);
  return named.length === 0 ? undefined : Object.fromEntries(named.map((pair) => [pair.name.trim(), pair.value]));
}

/** What changes: typed values are set, removed rows become null, untouched ones are left out. */
export function changeOf(pairs: Pair[]): Record<string, string | null> | undefined {
  const changed = pairs.filter((pair) => pair.name.trim() !== "" && (pair.kept ? pair.removed || pair.value !== "" : !pair.removed));
  return changed.length === 0 ? undefined : Object.fromEntries(changed.map((pair) => [pair.name.trim(), pair.removed ? null : pair.value]));
}
