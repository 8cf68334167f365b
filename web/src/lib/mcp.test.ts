import { describe, expect, it } from "vitest";
import { contentOf, isToolError, parseJson } from "./mcp";

describe("contentOf", () => {
  it("reads a tool's result", () => {
    const result = { content: [{ type: "text", text: "hi" }, { type: "image", data: "AA==", mimeType: "image/png" }, { type: "audio", data: "AA==", mimeType: "audio/wav" }] };
    expect(contentOf(result)).toEqual([
      { kind: "text", text: "hi" },
      { kind: "image", source: "data:image/png;base64,AA==", mime: "image/png" },
      { kind: "other", value: result.content[2] },
    ]);
  });

  it("reads resources, embedded resources and prompts", () => {
    expect(contentOf({ contents: [{ uri: "a:b", text: "x" }] })).toEqual([{ kind: "text", text: "x" }]);
    expect(contentOf({ content: [{ type: "resource", resource: { uri: "a:b", text: "y" } }] })).toEqual([{ kind: "text", text: "y" }]);
    expect(contentOf({ messages: [{ role: "user", content: { type: "text", text: "z" } }] })).toEqual([{ kind: "text", text: "z" }]);
    expect(contentOf({ content: [{ type: "resource_link", uri: "a:b" }] })).toEqual([{ kind: "link", uri: "a:b", name: "a:b" }]);
  });

  it("never makes a picture of what could be a script", () => {
    const svg = { type: "image", data: "AA==", mimeType: "image/svg+xml" };
    expect(contentOf({ content: [svg] })).toEqual([{ kind: "other", value: svg }]);
  });

  it("survives anything", () => {
    for (const value of [null, undefined, 1, "x", [], {}, { content: "x" }, { content: [null, 1] }]) expect(() => contentOf(value)).not.toThrow();
  });
});

it("tells errors and JSON", () => {
  expect(isToolError({ isError: true })).toBe(true);
  expect(isToolError({})).toBe(false);
  expect(parseJson(' {"a":1}')).toEqual({ a: 1 });
  expect(parseJson("{no")).toBeUndefined();
  expect(parseJson("12")).toBeUndefined();
});
