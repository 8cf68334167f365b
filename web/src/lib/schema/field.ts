// From a JSON Schema to a form: which fields there are and what may be put into them. Pure; the drawing is in
// components/SchemaField.svelte. What cannot be drawn as a form becomes a field for raw JSON, so that every
// tool can be tried.

export type Schema = Record<string, unknown>;
export type Choice = { value: unknown; label: string };

type Common = { title: string | null; description: string | null; nullable: boolean; initial: unknown };
export type Field = Common &
  (
    | { kind: "text"; format: string | null; lengthMin: number | null; lengthMax: number | null; pattern: string | null; long: boolean }
    | { kind: "number"; integer: boolean; min: number | null; max: number | null; step: number | null }
    | { kind: "boolean" }
    | { kind: "choice"; choices: Choice[] }
    | { kind: "array"; item: Field; itemsMin: number; itemsMax: number | null }
    | { kind: "object"; properties: Property[] }
    | { kind: "json" }
  );
export type Property = { name: string; required: boolean; field: Field };

/** Deeper than this a form helps nobody; recursive schemas end here. */
const DEPTH_MAX = 6;
const LONG_TEXT_NAMES = /^(body|content|contents|text|prompt|message|query|sql|code|script|description)$/i;

export function fieldOf(schema: unknown, root: unknown = schema, name = "", depth = 0): Field {
  const resolved = resolve(schema, root);
  if (resolved === null || depth > DEPTH_MAX) return json(asSchema(schema) ?? {});
  const { schema: plain, nullable } = withoutNull(resolved, root);
  const common = commonOf(plain, nullable);

  const choices = choicesOf(plain, root);
  if (choices) return { ...common, kind: "choice", choices };
  if (hasAlternatives(plain)) return { ...common, kind: "json" };

  switch (typeOf(plain)) {
    case "string":
      return {
        ...common,
        kind: "text",
        format: text(plain.format),
        lengthMin: number(plain.minLength),
        lengthMax: number(plain.maxLength),
        pattern: text(plain.pattern),
        long: LONG_TEXT_NAMES.test(name) || (number(plain.maxLength) ?? 0) > 200,
      };
    case "integer":
    case "number":
      return {
        ...common,
        kind: "number",
        integer: typeOf(plain) === "integer",
        min: number(plain.minimum) ?? number(plain.exclusiveMinimum),
        max: number(plain.maximum) ?? number(plain.exclusiveMaximum),
        step: number(plain.multipleOf),
      };
    case "boolean":
      return { ...common, kind: "boolean" };
    case "array":
      if (asSchema(plain.items) === null) return { ...common, kind: "json" };
      return {
        ...common,
        kind: "array",
        item: fieldOf(plain.items, root, "", depth + 1),
        itemsMin: number(plain.minItems) ?? 0,
        itemsMax: number(plain.maxItems),
      };
    case "object": {
      const properties = propertiesOf(plain, root, depth);
      if (properties.length === 0 && depth > 0) return { ...common, kind: "json" };
      return { ...common, kind: "object", properties };
    }
    default:
      return { ...common, kind: "json" };
  }
}

/** The value a form starts with: defaults, and as little else as the schema allows. */
export function initialValue(field: Field, required: boolean): unknown {
  if (field.initial !== undefined) return structuredClone(field.initial);
  if (!required) return undefined;
  switch (field.kind) {
    case "object":
      return Object.fromEntries(
        field.properties
          .map(({ name, required, field }) => [name, initialValue(field, required)] as const)
          .filter(([, value]) => value !== undefined),
      );
    case "array":
      return Array.from({ length: field.itemsMin }, () => initialValue(field.item, true));
    case "boolean":
      return false;
    case "choice":
      return field.choices.length === 1 ? field.choices[0]?.value : undefined;
    default:
      return undefined;
  }
}

export type Issue = { path: string; text: string };

/** What is wrong with a value, by the path of the field that shows it (`/a/0/b`). The server has the last word. */
export function issuesOf(field: Field, value: unknown, required: boolean, path = ""): Issue[] {
  if (value === undefined) return required ? [{ path, text: "needed" }] : [];
  if (value === null) return field.nullable ? [] : [{ path, text: "must not be null" }];
  switch (field.kind) {
    case "text": {
      if (typeof value !== "string") return [{ path, text: "must be text" }];
      if (field.lengthMin !== null && value.length < field.lengthMin) return [{ path, text: `at least ${field.lengthMin} characters` }];
      if (field.lengthMax !== null && value.length > field.lengthMax) return [{ path, text: `at most ${field.lengthMax} characters` }];
      if (field.pattern !== null && !matches(field.pattern, value)) return [{ path, text: `must match ${field.pattern}` }];
      return [];
    }
    case "number": {
      if (typeof value !== "number" || Number.isNaN(value)) return [{ path, text: "must be a number" }];
      if (field.integer && !Number.isInteger(value)) return [{ path, text: "must be a whole number" }];
      if (field.min !== null && value < field.min) return [{ path, text: `at least ${field.min}` }];
      if (field.max !== null && value > field.max) return [{ path, text: `at most ${field.max}` }];
      return [];
    }
    case "array": {
      if (!Array.isArray(value)) return [{ path, text: "must be a list" }];
      const counted: Issue[] = [];
      if (value.length < field.itemsMin) counted.push({ path, text: `at least ${field.itemsMin} items` });
      if (field.itemsMax !== null && value.length > field.itemsMax) counted.push({ path, text: `at most ${field.itemsMax} items` });
      return [...counted, ...value.flatMap((item, index) => issuesOf(field.item, item, true, `${path}/${index}`))];
    }
    case "object": {
      if (typeof value !== "object" || Array.isArray(value)) return [{ path, text: "must be an object" }];
      const values = value as Record<string, unknown>;
      return field.properties.flatMap((property) =>
        issuesOf(property.field, values[property.name], property.required, `${path}/${property.name}`),
      );
    }
    default:
      return [];
  }
}

function propertiesOf(schema: Schema, root: unknown, depth: number): Property[] {
  const required = new Set(Array.isArray(schema.required) ? schema.required.filter((name) => typeof name === "string") : []);
  const properties = Object.entries(asSchema(schema.properties) ?? {}).map(([name, property]) => ({
    name,
    required: required.has(name),
    field: fieldOf(property, root, name, depth + 1),
  }));
  return [...properties.filter((property) => property.required), ...properties.filter((property) => !property.required)];
}

function commonOf(schema: Schema, nullable: boolean): Common {
  return { title: text(schema.title), description: text(schema.description), nullable, initial: schema.default };
}

function json(schema: Schema): Field {
  return { ...commonOf(schema, true), kind: "json" };
}

/** Follows `$ref` within the document; words beside it (a title, a description) win. */
function resolve(schema: unknown, root: unknown): Schema | null {
  let current = asSchema(schema);
  for (let hops = 0; current && typeof current.$ref === "string"; hops++) {
    if (hops > 8) return null;
    const { $ref, ...beside } = current;
    const target = asSchema(lookUp(root, $ref as string));
    current = target && { ...target, ...beside };
  }
  return current;
}

function lookUp(root: unknown, reference: string): unknown {
  if (reference === "#") return root;
  if (!reference.startsWith("#/")) return undefined;
  let at: unknown = root;
  for (const part of reference.slice(2).split("/")) {
    const key = decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~");
    at = (at as Record<string, unknown> | null | undefined)?.[key];
  }
  return at;
}

/** `string | null` in its three spellings is a nullable string. */
function withoutNull(schema: Schema, root: unknown): { schema: Schema; nullable: boolean } {
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((type) => type !== "null");
    return { schema: { ...schema, type: types.length === 1 ? types[0] : types }, nullable: types.length < schema.type.length };
  }
  for (const word of ["anyOf", "oneOf"] as const) {
    const branches = schema[word];
    if (!Array.isArray(branches)) continue;
    const others = branches.filter((branch) => resolve(branch, root)?.type !== "null");
    if (others.length === branches.length) continue;
    const { [word]: _, ...beside } = schema;
    if (others.length !== 1) return { schema: { ...beside, [word]: others }, nullable: true };
    return { schema: { ...(resolve(others[0], root) ?? {}), ...beside }, nullable: true };
  }
  return { schema, nullable: schema.nullable === true };
}

/** Enumerations: `enum`, a `const`, or alternatives that are all constants (with titles). */
function choicesOf(schema: Schema, root: unknown): Choice[] | null {
  if (Array.isArray(schema.enum)) {
    const names = Array.isArray(schema.enumNames) ? schema.enumNames : [];
    return schema.enum.filter((value) => value !== null).map((value, index) => ({ value, label: text(names[index]) ?? show(value) }));
  }
  if ("const" in schema) return [{ value: schema.const, label: show(schema.const) }];
  const branches = (schema.oneOf ?? schema.anyOf) as unknown;
  if (!Array.isArray(branches) || branches.length === 0) return null;
  const constants = branches.map((branch) => resolve(branch, root));
  if (!constants.every((branch) => branch !== null && "const" in branch)) return null;
  return constants.map((branch) => ({ value: branch?.const, label: text(branch?.title) ?? show(branch?.const) }));
}

function hasAlternatives(schema: Schema): boolean {
  return ["anyOf", "oneOf", "allOf", "not"].some((word) => word in schema);
}

function typeOf(schema: Schema): string | null {
  if (typeof schema.type === "string") return schema.type;
  if (Array.isArray(schema.type)) return null;
  return asSchema(schema.properties) ? "object" : null;
}

function show(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function matches(pattern: string, value: string): boolean {
  try {
    return new RegExp(pattern, "u").test(value);
  } catch {
    return true; // not every regular expression dialect is ours: the server decides
  }
}

function asSchema(value: unknown): Schema | null {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Schema) : null;
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}
