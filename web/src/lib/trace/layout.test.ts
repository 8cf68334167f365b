import { describe, expect, it } from "vitest";
import type { SpanTree, Trace } from "$lib/types";
import { layOut, ticks, visible } from "./layout";

const BEGAN = "2026-11-22T00:00:00.000Z";

function step(span: string, offset_us: number, waited_us: number, handled_us: number, children: SpanTree[] = []): SpanTree {
  return { span, parent: null, actor: `node/${span}`, kind: "test", message: "M", queued_at: BEGAN, offset_us, waited_us, handled_us, outcome: { kind: "done" }, children };
}

const trace: Trace = {
  correlation_id: "0".repeat(32),
  started_at: BEGAN,
  duration_us: 9000,
  roots: [step("a", 0, 0, 9000, [step("b", 12, 40, 300, [step("c", 60, 5, 10)]), step("d", 2000, 10, 6000)])],
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

  it("places steps by the microsecond", () => expect(rows.map((row) => row.startUs)).toEqual([0, 12, 60, 2000]));

  it("folds", () => expect(visible(rows, new Set(["b"])).map((row) => row.span.span)).toEqual(["a", "b", "d"]));

  it("copes with an empty trace", () => expect(layOut({ ...trace, duration_us: 0, roots: [] })).toEqual({ rows: [], totalUs: 1 }));
});

it("marks the axis at round times", () => {
  expect(ticks(9000)).toEqual([0, 2000, 4000, 6000, 8000]);
  expect(ticks(1).length).toBeGreaterThan(0);
  expect(ticks(123_456_789).length).toBeLessThanOrEqual(7);
});
