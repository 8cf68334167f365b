// What a person pasted: an official server.json, an mcpServers document as MCP clients write it, or neither. Pure.
import { SERVER_NAME } from "./name";

export type Pasted =
  | { kind: "empty" }
  | { kind: "invalid"; reason: string }
  | { kind: "mcp_servers"; names: string[] }
  | { kind: "server_json"; names: string[]; issues: string[] };

export function detect(text: string): Pasted {
  if (text.trim() === "") return { kind: "empty" };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { kind: "invalid", reason: `not JSON: ${(error as Error).message}` };
  }
  if (!isObject(value)) return { kind: "invalid", reason: "expected a JSON object" };
  const servers = value.mcpServers ?? value.servers;
  if (isObject(servers)) return mcpServers(servers);
  if (typeof value.name === "string" && (Array.isArray(value.packages) || Array.isArray(value.remotes) || "$schema" in value)) {
    return { kind: "server_json", names: [value.name], issues: manifestIssues(value) };
  }
  return { kind: "invalid", reason: "neither a server.json (name with packages or remotes) nor an mcpServers document" };
}

function mcpServers(servers: Record<string, unknown>): Pasted {
  const names = Object.keys(servers);
  if (names.length === 0) return { kind: "invalid", reason: "mcpServers is empty" };
  for (const [name, entry] of Object.entries(servers)) {
    if (!isObject(entry)) return { kind: "invalid", reason: `${name}: expected an object` };
    if (typeof entry.command !== "string" && typeof entry.url !== "string") return { kind: "invalid", reason: `${name}: needs a command or a url` };
  }
  return { kind: "mcp_servers", names };
}

const REVERSE_DNS_NAME = /^[a-zA-Z0-9.-]+\/[a-zA-Z0-9._-]+$/;
const DESCRIPTION_LENGTH_MAX = 100;

/** The rules of the official schema (2025-12-11) that people trip over; the node checks all of them. */
export function manifestIssues(manifest: unknown): string[] {
  if (!isObject(manifest)) return ["expected a JSON object"];
  const issues: string[] = [];
  if (typeof manifest.name !== "string") issues.push("name: needed");
  else if (!REVERSE_DNS_NAME.test(manifest.name)) issues.push("name: must be reverse DNS with one slash, as io.github.someone/weather");
  if (typeof manifest.description !== "string" || manifest.description === "") issues.push("description: needed");
  else if (manifest.description.length > DESCRIPTION_LENGTH_MAX) issues.push(`description: at most ${DESCRIPTION_LENGTH_MAX} characters, has ${manifest.description.length}`);
  if (typeof manifest.version !== "string" || manifest.version === "") issues.push("version: needed");
  else if (/[\^~*<>|]|\s-\s|(^|\.)x($|\.)/.test(manifest.version)) issues.push("version: must be one version, not a range");
  for (const [index, entry] of list(manifest.packages)) {
    for (const field of ["registryType", "identifier"]) {
      if (typeof entry[field] !== "string") issues.push(`packages[${index}].${field}: needed`);
    }
    if (!isObject(entry.transport)) issues.push(`packages[${index}].transport: needed`);
  }
  for (const [index, entry] of list(manifest.remotes)) {
    if (typeof entry.type !== "string") issues.push(`remotes[${index}].type: needed`);
    if (typeof entry.url !== "string") issues.push(`remotes[${index}].url: needed`);
  }
  return issues;
}

/** "get-time --tz 'Europe/Oslo'" as words, with the quoting people know from shells. */
export function splitCommand(line: string): string[] {
  const words: string[] = [];
  const pattern = /"((?:[^"\\]|\\.)*)"|'([^']*)'|((?:[^\s"'\\]|\\.)+)|(\s+)/g;
  let current: string | null = null;
  for (const [, double, single, plain, space] of line.matchAll(pattern)) {
    if (space !== undefined) {
      if (current !== null) words.push(current);
      current = null;
    } else {
      current = (current ?? "") + (single ?? (double ?? plain ?? "").replace(/\\(.)/g, "$1"));
    }
  }
  if (current !== null) words.push(current);
  return words;
}

/** A name that a server could have, from its URL or command. */
export function suggestName(source: string): string {
  const [host] = /^https?:\/\/([^/:]+)/.exec(source)?.slice(1) ?? [];
  const raw = host ? host.replace(/^(www|mcp|api)\./, "").split(".")[0] : (splitCommand(source).findLast((word) => /mcp|server/.test(word)) ?? splitCommand(source)[0]);
  const slug = (raw ?? "")
    .replace(/^.*\//, "")
    .replace(/@.*$/, "")
    .toLowerCase()
    .replace(/^(mcp-server-|server-|mcp-)/, "")
    .replace(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .slice(0, 63);
  return SERVER_NAME.test(slug) ? slug : "";
}

function list(value: unknown): [number, Record<string, unknown>][] {
  return Array.isArray(value) ? value.map((entry, index) => [index, isObject(entry) ? entry : {}]) : [];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
