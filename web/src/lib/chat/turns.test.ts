import { describe, expect, it } from "vitest";
import type { ConversationEvent, Turn } from "$lib/types";
import { applyEvent, isFinal, mergeHistory, openTurn } from "./turns";

function turn(id: string, change: Partial<Turn> = {}): Turn {
  return {
    id,
    correlation_id: "c",
    at: "2026-11-22T12:00:00.000Z",
    question: "what time is it?",
    answer: "",
    status: "routing",
    route: null,
    calls: [],
    duration_ms: null,
    problem: null,
    ...change,
  };
}

function play(events: ConversationEvent[], start: Turn[] = []): { turns: Turn[]; gaps: number } {
  let turns = start;
  let gaps = 0;
  for (const event of events) {
    const applied = applyEvent(turns, event);
    turns = applied.turns;
    if (applied.gap) gaps++;
  }
  return { turns, gaps };
}

const chunk = (offset: number, text: string): ConversationEvent => ({ event: "answer_chunk", turn_id: "1", offset, text });

describe("a turn by wire", () => {
  it("grows and ends", () => {
    const { turns, gaps } = play([
      { event: "turn_started", turn: turn("1") },
      { event: "turn_changed", turn: turn("1", { status: "calling" }) },
      chunk(0, "It is "),
      chunk(6, "noon."),
      { event: "turn_ended", turn: turn("1", { status: "answered", answer: "It is noon." }) },
    ]);
    expect(turns).toHaveLength(1);
    expect(turns[0]).toMatchObject({ status: "answered", answer: "It is noon." });
    expect(gaps).toBe(0);
  });

  it("keeps its text when it changes", () => {
    const { turns } = play([{ event: "turn_started", turn: turn("1") }, chunk(0, "It is"), { event: "turn_changed", turn: turn("1", { status: "calling" }) }]);
    expect(turns[0]).toMatchObject({ status: "calling", answer: "It is" });
  });

  it("ignores a piece heard twice and joins one that overlaps", () => {
    const { turns, gaps } = play([{ event: "turn_started", turn: turn("1") }, chunk(0, "It is "), chunk(0, "It is "), chunk(3, "is noon")]);
    expect(turns[0]?.answer).toBe("It is noon");
    expect(gaps).toBe(0);
  });

  it("reports a gap and a turn it does not know", () => {
    expect(play([{ event: "turn_started", turn: turn("1") }, chunk(4, "noon")]).gaps).toBe(1);
    expect(play([chunk(0, "noon")]).gaps).toBe(1);
  });
});

describe("mergeHistory", () => {
  it("keeps what arrived while the history was on its way", () => {
    const live = [turn("1", { answer: "It is noon", status: "calling" }), turn("2")];
    const merged = mergeHistory(live, [turn("1", { answer: "It", status: "calling" })]);
    expect(merged.map(({ id, answer }) => [id, answer])).toEqual([
      ["1", "It is noon"],
      ["2", ""],
    ]);
  });

  it("does not reopen a turn that has ended", () => {
    const merged = mergeHistory([turn("1", { status: "answered", answer: "noon" })], [turn("1", { status: "calling" })]);
    expect(merged[0]?.status).toBe("answered");
  });

  it("lets the read history win otherwise", () => {
    const merged = mergeHistory([turn("1", { answer: "partial", status: "calling" })], [turn("1", { status: "failed", answer: "" })]);
    expect(merged[0]).toMatchObject({ status: "failed", answer: "" });
  });
});

it("finds the open turn", () => {
  expect(openTurn([turn("1", { status: "answered" }), turn("2")])?.id).toBe("2");
  expect(openTurn([turn("1", { status: "nothing_fits" })])).toBeUndefined();
  expect(isFinal("cancelled")).toBe(true);
});
