// Sorting the lines of a table by what a column shows. Pure.

export type Sort = { column: string; descending: boolean };
export type SortKey = string | number | boolean | null | undefined;

/** Sorted by key; what has none comes last either way, and equals keep their order. */
export function sorted<T>(items: readonly T[], key: (item: T) => SortKey, descending: boolean): T[] {
  return items
    .map((item, index) => ({ item, index, key: key(item) }))
    .sort((a, b) => {
      const aMissing = a.key == null;
      const bMissing = b.key == null;
      if (aMissing || bMissing) return Number(aMissing) - Number(bMissing) || a.index - b.index;
      const order = compare(a.key, b.key);
      return (descending ? -order : order) || a.index - b.index;
    })
    .map(({ item }) => item);
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compare(a: SortKey, b: SortKey): number {
  if (typeof a === "string" && typeof b === "string") return collator.compare(a, b);
  return Number(a) - Number(b);
}
