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
  const beginMs = Date.parse(trace.started_at);
  const rows: Row[] = [];
  for (const root of trace.roots) place(root, 0, 0, beginMs, rows);
  const lastUs = Math.max(0, ...rows.map((row) => row.startUs + row.waitedUs + row.handledUs));
  return { rows, totalUs: Math.max(trace.duration_us, lastUs, 1) };
}

/**
 * The wall clock travels in whole milliseconds, while most steps take microseconds. A step was sent by its parent's
 * handler, so it cannot begin before that: it is moved right to where that handler began.
 */
function place(tree: SpanTree, depth: number, notBeforeUs: number, beginMs: number, rows: Row[]): void {
  const clockUs = (Date.parse(tree.queued_at) - beginMs) * 1000;
  const startUs = Math.max(Number.isFinite(clockUs) ? clockUs : 0, notBeforeUs, 0);
  const { children, ...span } = tree;
  const row: Row = {
    span,
    depth,
    startUs,
    waitedUs: tree.waited_us,
    handledUs: tree.handled_us,
    descendants: 0,
    failed: tree.outcome.kind === "failed" || tree.outcome.kind === "panicked",
  };
  rows.push(row);
  const before = rows.length;
  for (const child of children) place(child, depth + 1, startUs + tree.waited_us, beginMs, rows);
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
