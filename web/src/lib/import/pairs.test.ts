import { expect, it } from "vitest";
import { changeOf, newPair, pairsOf, recordOf } from "./pairs";

it("makes a record of what was typed", () => {
  expect(recordOf([{ ...newPair(), name: " A ", value: "1" }, newPair()])).toEqual({ A: "1" });
  expect(recordOf([newPair()])).toBeUndefined();
});

it("sends only what changed", () => {
  const [kept, renewed, gone] = pairsOf({ KEPT: "x", RENEWED: "x", GONE: "x" });
  const pairs = [kept!, { ...renewed!, value: "new" }, { ...gone!, removed: true }, { ...newPair(), name: "ADDED", value: "1" }];
  expect(changeOf(pairs)).toEqual({ RENEWED: "new", GONE: null, ADDED: "1" });
  expect(changeOf([kept!])).toBeUndefined();
});
