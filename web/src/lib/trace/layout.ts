// From a trace's tree to the rows of a waterfall. Pure.
import type { Span, SpanTree, Trace } from "$lib/types";

export type Row = {
  span: Span;
  depth: number;
  /** When the message was queued, in microseconds from the trace's beginning. */
  startUs: number;
  waitedUs: number;
  handledUs: number;
  /** How many rows below belong to this one. */
  descendants: number;
  failed: boolean;
};

export type Layout = { rows: Row[]; totalUs: number };

/** Rows in the order in which they happened, parents before children. */
export function layOut(trace: Trace): Layout {
  const rows: Row[] = [];
  for (const root of trace.roots) place(root, 0, rows);
  const lastUs = Math.max(0, ...rows.map((row) => row.startUs + row.waitedUs + row.handledUs));
  return { rows, totalUs: Math.max(trace.duration_us, lastUs, 1) };
}

function place(tree: SpanTree, depth: number, rows: Row[]): void {
  const { children, offset_us, ...span } = tree;
  const row: Row = {
    span,
    depth,
    startUs: offset_us,
    waitedUs: tree.waited_us,
    handledUs: tree.handled_us,
    descendants: 0,
    failed: tree.outcome.kind === "failed" || tree.outcome.kind === "panicked",
  };
  rows.push(row);
  const before = rows.length;
  for (const child of children) place(child, depth + 1, rows);
  row.descendants = rows.length - before;
}

/** The rows that show when the children of `folded` steps are hidden. */
export function visible(rows: Row[], folded: ReadonlySet<string>): Row[] {
  const shown: Row[] = [];
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index]!;
    shown.push(row);
    if (folded.has(row.span.span)) index += row.descendants;
  }
  return shown;
}

/** Round marks for the time axis, at most `marksMax` of them, beginning with zero. */
export function ticks(totalUs: number, marksMax = 6): number[] {
  const rough = totalUs / Math.max(1, marksMax - 1);
  const magnitude = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((candidate) => candidate >= rough) ?? rough;
  const marks: number[] = [];
  for (let at = 0; at <= totalUs; at += step) marks.push(at);
  return marks;
}
