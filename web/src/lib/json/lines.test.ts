import { describe, expect, it } from "vitest";
import { changeAt, differences, linesOf } from "./lines";

const text = (value: unknown) =>
  linesOf(value)
    .map((line) => "  ".repeat(line.indent) + line.tokens.map((token) => token.text).join(""))
    .join("\n");

describe("linesOf", () => {
  it.each([[{ a: 1, b: ["x", { c: null }], d: {}, e: [] }], [[]], ["text"], [null], [[true, false]]])("writes %j as JSON.stringify does", (value) => {
    expect(text(value)).toBe(JSON.stringify(value, null, 2));
  });

  it("knows the path of each line", () => {
    expect(linesOf({ a: { b: 1 } }).map((line) => line.path)).toEqual(["", "/a", "/a/b", "/a", ""]);
  });
});

describe("differences", () => {
  const { changed, removed } = differences({ a: 1, b: { c: 2, d: 3 }, gone: 1, list: [1, 2] }, { a: 1, b: { c: 9, d: 3 }, fresh: { deep: 1 }, list: [1] });

  it("finds what changed, came and went", () => {
    expect([...changed]).toEqual([
      ["/b/c", "changed"],
      ["/fresh", "added"],
    ]);
    expect(removed).toEqual(["/list/1", "/gone"]);
  });

  it("marks all lines inside something new", () => {
    expect(changeAt("/fresh/deep", changed)).toBe("added");
    expect(changeAt("/b/c", changed)).toBe("changed");
    expect(changeAt("/b", changed)).toBeNull();
    expect(changeAt("/a", changed)).toBeNull();
  });

  it("is quiet when nothing changed", () => expect(differences({ a: [1] }, { a: [1] }).changed.size).toBe(0));
});
