import { describe, expect, it } from "vitest";
import { type Field, fieldOf, initialValue, issuesOf } from "./field";

const convert = {
  type: "object",
  properties: {
    source_timezone: { type: "string", description: "IANA name" },
    amount: { type: "integer", minimum: 1, maximum: 10, default: 3 },
    mode: { enum: ["fast", "slow"] },
    exact: { type: "boolean" },
    tags: { type: "array", items: { type: "string" }, maxItems: 2 },
    where: { $ref: "#/$defs/place" },
    limit: { anyOf: [{ type: "number" }, { type: "null" }], default: null },
    either: { anyOf: [{ type: "string" }, { type: "number" }] },
  },
  required: ["source_timezone", "where"],
  $defs: { place: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
};

function property(field: Field, name: string): Field {
  if (field.kind !== "object") throw new Error("not an object");
  const found = field.properties.find((property) => property.name === name);
  if (!found) throw new Error(`no ${name}`);
  return found.field;
}

describe("fieldOf", () => {
  const form = fieldOf(convert);

  it("puts required properties first", () => {
    if (form.kind !== "object") throw new Error("not an object");
    expect(form.properties.slice(0, 2).map(({ name }) => name)).toEqual(["source_timezone", "where"]);
  });

  it.each([
    ["source_timezone", "text"],
    ["amount", "number"],
    ["mode", "choice"],
    ["exact", "boolean"],
    ["tags", "array"],
    ["where", "object"],
    ["limit", "number"],
    ["either", "json"],
  ])("%s is a %s field", (name, kind) => expect(property(form, name).kind).toBe(kind));

  it("knows that an alternative with null is nullable", () => expect(property(form, "limit").nullable).toBe(true));

  it("reads titled constants as choices", () => {
    const field = fieldOf({ oneOf: [{ const: "a", title: "Alpha" }, { const: 2 }] });
    expect(field.kind === "choice" && field.choices).toEqual([
      { value: "a", label: "Alpha" },
      { value: 2, label: "2" },
    ]);
  });

  it("ends a recursive schema in raw JSON", () => {
    const tree = { $ref: "#/$defs/n", $defs: { n: { type: "object", properties: { child: { $ref: "#/$defs/n" } } } } };
    let field = fieldOf(tree);
    let depth = 0;
    while (field.kind === "object") {
      field = property(field, "child");
      depth++;
    }
    expect(field.kind).toBe("json");
    expect(depth).toBeLessThan(10);
  });

  it.each([[undefined], [true], ["text"], [{}], [{ $ref: "#/nowhere" }], [{ $ref: "#" }]])("survives %j", (schema) => {
    expect(fieldOf(schema).kind).toBe("json");
  });

  it("shows a tool without arguments as an empty form", () => {
    expect(fieldOf({ type: "object" })).toMatchObject({ kind: "object", properties: [] });
  });
});

describe("initialValue", () => {
  it("takes defaults and leaves the rest out", () => {
    expect(initialValue(fieldOf(convert), true)).toEqual({ amount: 3, limit: null, where: {} });
  });
});

describe("issuesOf", () => {
  const form = fieldOf(convert);

  it("names what is missing by path", () => {
    expect(issuesOf(form, { where: {} }, true)).toEqual([
      { path: "/source_timezone", text: "needed" },
      { path: "/where/city", text: "needed" },
    ]);
  });

  it("checks ranges, kinds and lengths", () => {
    const value = { source_timezone: "UTC", where: { city: "Oslo" }, amount: 11, tags: ["a", "b", "c"] };
    expect(issuesOf(form, value, true)).toEqual([
      { path: "/amount", text: "at most 10" },
      { path: "/tags", text: "at most 2 items" },
    ]);
    expect(issuesOf(form, { ...value, amount: 1.5, tags: [] }, true)).toEqual([{ path: "/amount", text: "must be a whole number" }]);
  });

  it("is content with what fits", () => {
    expect(issuesOf(form, { source_timezone: "UTC", where: { city: "Oslo" }, limit: null }, true)).toEqual([]);
  });
});
