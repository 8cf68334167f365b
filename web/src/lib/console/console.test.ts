import { describe, expect, it } from "vitest";
import type { ActorReport } from "$lib/types";
import { type Sample, sample } from "./rates";
import { CHILDREN_SHOWN_MAX, descendantsOf, grow, nameOf, placesOf } from "./tree";

const LATENCY = { count: 0, p50_us: 0, p95_us: 0, p99_us: 0, max_us: 0 };
let id = 0;
function actor(path: string, change: Partial<ActorReport> = {}): ActorReport {
  return {
    id: id++,
    path,
    kind: nameOf(path),
    supervisor: false,
    status: "idle",
    current: null,
    mailbox_depth: 0,
    mailbox_messages_max: 100,
    oldest_waiting_ms: null,
    handled: 0,
    overloaded: 0,
    failed: 0,
    waiting: LATENCY,
    handling: LATENCY,
    restarts: 0,
    last_error: null,
    last_exit: null,
    started_at: "2026-11-22T12:00:00.000Z",
    tasks: 0,
    ...change,
  };
}

describe("grow", () => {
  const reports = [actor("node", { supervisor: true }), actor("node/registry"), actor("node/upstreams", { supervisor: true }), actor("node/upstreams/time")];

  it("puts children below their supervisor", () => {
    const [root] = grow(reports, new Set(), new Set());
    expect(root?.children.map((child) => child.name)).toEqual(["registry", "upstreams"]);
    expect(root?.children[1]?.children[0]?.name).toBe("time");
    expect(root?.descendants).toBe(3);
  });

  it("hangs an actor whose supervisor is unknown under the nearest that is known", () => {
    const [root] = grow([actor("node"), actor("node/a/b")], new Set(), new Set());
    expect(root?.children.map((child) => child.path)).toEqual(["node/a/b"]);
  });

  it("folds, and still counts", () => {
    const [root] = grow(reports, new Set(["node"]), new Set());
    expect(root).toMatchObject({ children: [], descendants: 3, folded: true });
  });

  it("shows of thousands those in trouble and how many more there are", () => {
    const many = [actor("node", { supervisor: true }), ...Array.from({ length: 500 }, (_, index) => actor(`node/p${index}`)), actor("node/z", { status: "restarting" })];
    const [root] = grow(many, new Set(), new Set());
    expect(root?.children).toHaveLength(CHILDREN_SHOWN_MAX + 1);
    expect(root?.children.some((child) => child.name === "z")).toBe(true);
    expect(root?.children.at(-1)).toMatchObject({ report: null, leftOut: 501 - CHILDREN_SHOWN_MAX });
    expect(grow(many, new Set(), new Set(["node"]))[0]?.children).toHaveLength(501);
  });
});

describe("placesOf", () => {
  const roots = grow([actor("node"), actor("node/a"), actor("node/a/x"), actor("node/a/y"), actor("node/b")], new Set(), new Set());
  const at = (indented: boolean) => placesOf(roots, indented).map(({ branch, column, row }) => `${branch.path} ${column},${row}`);

  it("puts a supervisor beside its first child", () => {
    expect(at(false)).toEqual(["node 0,0", "node/a 1,0", "node/a/x 2,0", "node/a/y 2,1", "node/b 1,2"]);
  });

  it("gives everything a row of its own when indented", () => {
    expect(at(true)).toEqual(["node 0,0", "node/a 1,1", "node/a/x 2,2", "node/a/y 2,3", "node/b 1,4"]);
  });
});

it("finds all that end with an actor", () => {
  const reports = [actor("node/a"), actor("node/a/b"), actor("node/ab")];
  expect(descendantsOf(reports, "node/a").map((report) => report.path)).toEqual(["node/a/b"]);
});

describe("sample", () => {
  const one = { ...actor("node/x"), key: "A/1" };
  const look = (before: ReadonlyMap<string, Sample>, handled: number, elapsedMs = 500) => {
    const after = sample(before, [{ ...one, handled }], elapsedMs);
    if (after === null) throw new Error("the look was left out");
    return after;
  };

  it("turns counters into rates and falls silent", () => {
    let samples = look(new Map(), 100);
    expect(samples.get(one.key)?.rate).toBe(0);
    samples = look(samples, 200);
    expect(samples.get(one.key)?.rate).toBeCloseTo(80);
    for (let round = 0; round < 40; round++) samples = look(samples, 200);
    expect(samples.get(one.key)?.rate).toBe(0);
  });

  it("leaves out a look that came too soon", () => {
    expect(sample(look(new Map(), 100), [{ ...one, handled: 900 }], 3)).toBeNull();
  });

  it("does not go below zero when a counter starts anew", () => {
    expect(look(new Map([[one.key, { handled: 500, rate: 0 }]]), 3).get(one.key)?.rate).toBe(0);
  });
});
