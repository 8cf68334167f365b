// JSON as lines with the path each belongs to, and which paths differ between two values. Pure.

export type Token = { kind: "key" | "string" | "number" | "literal" | "mark"; text: string };
export type Line = { indent: number; path: string; tokens: Token[] };
export type Change = "added" | "changed";

/** Longer documents are cut: nobody reads them, and the browser would choke. */
export const LINES_MAX = 5_000;

export function linesOf(value: unknown): Line[] {
  const lines: Line[] = [];
  write(value, "", 0, [], "", lines);
  return lines;
}

function write(value: unknown, path: string, indent: number, lead: Token[], tail: string, lines: Line[]): void {
  if (lines.length >= LINES_MAX) return;
  const entries = entriesOf(value);
  if (entries === null || entries.length === 0) {
    const token = entries === null ? scalar(value) : mark(Array.isArray(value) ? "[]" : "{}");
    lines.push({ indent, path, tokens: [...lead, token, ...(tail ? [mark(tail)] : [])] });
    return;
  }
  const isList = Array.isArray(value);
  lines.push({ indent, path, tokens: [...lead, mark(isList ? "[" : "{")] });
  entries.forEach(([key, child], index) => {
    const childLead: Token[] = isList ? [] : [{ kind: "key", text: JSON.stringify(key) }, mark(": ")];
    write(child, `${path}/${key}`, indent + 1, childLead, index < entries.length - 1 ? "," : "", lines);
  });
  lines.push({ indent, path, tokens: [mark((isList ? "]" : "}") + tail)] });
}

/** The paths that are new or hold another value than before, and those that are gone. */
export function differences(before: unknown, after: unknown): { changed: Map<string, Change>; removed: string[] } {
  const changed = new Map<string, Change>();
  const removed: string[] = [];
  compare(before, after, "", changed, removed);
  return { changed, removed };
}

function compare(before: unknown, after: unknown, path: string, changed: Map<string, Change>, removed: string[]): void {
  const old = entriesOf(before);
  const now = entriesOf(after);
  if (old === null || now === null || Array.isArray(before) !== Array.isArray(after)) {
    if (JSON.stringify(before) !== JSON.stringify(after)) changed.set(path, "changed");
    return;
  }
  const oldByKey = new Map(old);
  for (const [key, value] of now) {
    const childPath = `${path}/${key}`;
    if (oldByKey.has(key)) compare(oldByKey.get(key), value, childPath, changed, removed);
    else changed.set(childPath, "added");
    oldByKey.delete(key);
  }
  for (const key of oldByKey.keys()) removed.push(`${path}/${key}`);
}

/** Whether a line belongs to something that changed: its own path, or all that is inside something new. */
export function changeAt(path: string, changed: ReadonlyMap<string, Change>): Change | null {
  for (let at = path; ; at = at.slice(0, at.lastIndexOf("/"))) {
    const change = changed.get(at);
    if (change) return change;
    if (at === "") return null;
  }
}

function entriesOf(value: unknown): [string, unknown][] | null {
  if (Array.isArray(value)) return value.map((item, index) => [String(index), item]);
  if (typeof value === "object" && value !== null) return Object.entries(value).filter(([, child]) => child !== undefined);
  return null;
}

function scalar(value: unknown): Token {
  if (typeof value === "string") return { kind: "string", text: JSON.stringify(value) };
  if (typeof value === "number") return { kind: "number", text: String(value) };
  return { kind: "literal", text: value === undefined ? "null" : String(value) };
}

function mark(text: string): Token {
  return { kind: "mark", text };
}
