import { describe, expect, it } from "vitest";
import type { SpanTree, Trace } from "$lib/types";
import { layOut, ticks, visible } from "./layout";

function step(span: string, atMs: number, waited_us: number, handled_us: number, children: SpanTree[] = []): SpanTree {
  const queued_at = new Date(Date.UTC(2026, 10, 22) + atMs).toISOString();
  return { span, parent: null, actor: `node/${span}`, kind: "test", message: "M", queued_at, waited_us, handled_us, outcome: { kind: "done" }, children };
}

const trace: Trace = {
  correlation_id: "0".repeat(32),
  started_at: new Date(Date.UTC(2026, 10, 22)).toISOString(),
  duration_us: 9000,
  roots: [step("a", 0, 0, 9000, [step("b", 0, 40, 300, [step("c", 0, 5, 10)]), step("d", 2, 10, 6000)])],
  spans_dropped: 0,
};

describe("layOut", () => {
  const { rows, totalUs } = layOut(trace);

  it("orders parents before children and counts descendants", () => {
    expect(rows.map(({ span, depth, descendants }) => [span.span, depth, descendants])).toEqual([
      ["a", 0, 3],
      ["b", 1, 1],
      ["c", 2, 0],
      ["d", 1, 0],
    ]);
    expect(totalUs).toBe(9000);
  });

  it("never lets a step begin before its parent's handler", () => {
    expect(rows.find((row) => row.span.span === "c")?.startUs).toBe(40);
    expect(rows.find((row) => row.span.span === "d")?.startUs).toBe(2000);
  });

  it("folds", () => expect(visible(rows, new Set(["b"])).map((row) => row.span.span)).toEqual(["a", "b", "d"]));

  it("copes with an empty trace", () => expect(layOut({ ...trace, duration_us: 0, roots: [] })).toEqual({ rows: [], totalUs: 1 }));
});

it("marks the axis at round times", () => {
  expect(ticks(9000)).toEqual([0, 2000, 4000, 6000, 8000]);
  expect(ticks(1).length).toBeGreaterThan(0);
  expect(ticks(123_456_789).length).toBeLessThanOrEqual(7);
});
