import { expect, it } from "vitest";
import { backoffMs } from "./backoff";

it("grows, stays bounded and never hammers", () => {
  const longest = [0, 1, 2, 3, 20].map((attempt) => backoffMs(attempt, () => 1));
  expect(longest).toEqual([250, 500, 1000, 2000, 15_000]);
  expect(backoffMs(0, () => 0)).toBe(125);
});
