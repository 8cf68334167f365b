import { expect, it } from "vitest";
import { sorted } from "./sort";

it("sorts numbers, text and what is missing", () => {
  expect(sorted([3, null, 1, 2], (n) => n, false)).toEqual([1, 2, 3, null]);
  expect(sorted([3, null, 1, 2], (n) => n, true)).toEqual([3, 2, 1, null]);
  expect(sorted(["b10", "B9", "a"], (text) => text, false)).toEqual(["a", "B9", "b10"]);
});

it("keeps the order of equals", () => {
  const items = [
    { id: 1, key: "x" },
    { id: 2, key: "x" },
  ];
  expect(sorted(items, (item) => item.key, true).map((item) => item.id)).toEqual([1, 2]);
});
