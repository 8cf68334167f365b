import { describe, expect, it } from "vitest";
import { ago, duration, percent, plural, rate, words } from "./format";

const plain = (text: string) => text.replaceAll("\u00a0", " ");

describe("duration", () => {
  it.each([
    [0, "0 ms"],
    [0.0042, "4.2 µs"],
    [0.84, "840 µs"],
    [1, "1 ms"],
    [12.44, "12.4 ms"],
    [999.7, "1 s"],
    [3210, "3.2 s"],
    [250_000, "4 min 10 s"],
    [7_200_000, "2 h"],
    [183_600_000, "2 d 3 h"],
    [null, "–"],
  ])("%s ms is %s", (ms, text) => expect(plain(duration(ms))).toBe(text));
});

describe("ago", () => {
  const now = Date.parse("2026-11-22T12:00:00Z");
  it.each([
    ["2026-11-22T11:59:59Z", "now"],
    ["2026-11-22T11:59:20Z", "40 s ago"],
    ["2026-11-22T11:57:00Z", "3 min ago"],
    ["2026-11-20T11:57:00Z", "2 d ago"],
    [null, "never"],
    ["not a time", "never"],
  ])("%s is %s", (moment, text) => expect(ago(moment, now)).toBe(text));
});

it("percent shows 100 only when it is whole", () => {
  expect(plain(percent(1))).toBe("100 %");
  expect(plain(percent(0.99999))).toBe("99.9 %");
  expect(plain(percent(0.5))).toBe("50 %");
  expect(plain(percent(0.0312))).toBe("3.1 %");
  expect(plain(percent(0))).toBe("0 %");
});

it("counts in words", () => {
  expect(plural(1, "child", "children")).toBe("1 child");
  expect(plural(7, "child", "children")).toBe("7 children");
  expect(rate(0.04)).toBe("< 0.1");
  expect(rate(12)).toBe("12");
  expect(words("PostMortem")).toBe("post mortem");
  expect(words("rest_for_one")).toBe("rest for one");
});
