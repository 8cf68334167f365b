// The parts of MCP's own shapes that the UI reads (camelCase, as servers send them), and how to read results.

export type Tool = {
  name: string;
  title?: string;
  description?: string;
  inputSchema?: unknown;
  outputSchema?: unknown;
  annotations?: { title?: string; readOnlyHint?: boolean; destructiveHint?: boolean; idempotentHint?: boolean; openWorldHint?: boolean };
};
export type McpResource = { uri: string; name?: string; title?: string; description?: string; mimeType?: string };
export type Prompt = {
  name: string;
  title?: string;
  description?: string;
  arguments?: { name: string; title?: string; description?: string; required?: boolean }[];
};

export type Content =
  | { kind: "text"; text: string }
  | { kind: "image"; source: string; mime: string }
  | { kind: "link"; uri: string; name: string }
  | { kind: "other"; value: unknown };

const PICTURES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

/** What a `CallToolResult`, `ReadResourceResult` or `GetPromptResult` holds, as far as a person can look at it. */
export function contentOf(result: unknown): Content[] {
  if (!isObject(result)) return [];
  const parts = [result.content, result.contents, result.messages].find(Array.isArray) as unknown[] | undefined;
  return (parts ?? []).map((part) => readPart(isObject(part) && isObject(part.content) ? part.content : part));
}

function readPart(part: unknown): Content {
  if (!isObject(part)) return { kind: "other", value: part };
  if (part.type === "resource" && isObject(part.resource)) return readPart(part.resource);
  if (typeof part.text === "string") return { kind: "text", text: part.text };
  const data = part.data ?? part.blob;
  if (typeof data === "string" && typeof part.mimeType === "string" && PICTURES.has(part.mimeType)) {
    return { kind: "image", source: `data:${part.mimeType};base64,${data}`, mime: part.mimeType };
  }
  if (part.type === "resource_link" && typeof part.uri === "string") {
    return { kind: "link", uri: part.uri, name: typeof part.name === "string" ? part.name : part.uri };
  }
  return { kind: "other", value: part };
}

export function isToolError(result: unknown): boolean {
  return isObject(result) && result.isError === true;
}

/** Text that is JSON is nicer to read formatted. */
export function parseJson(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
