// The registry's part of the API: paths and shapes in one place.
import { type CallOptions, del, get, patch, path, post } from "./api";
import type { McpResource, Prompt, Tool } from "./mcp";
import type { CallToolResponse, HealthHistory, ImportReport, LogLine, ServerLoginStarted, NewServer, Page, ServerDetail, ServerPatch, ServerSummary, TestReport } from "./types";

export type ServerListQuery = { search?: string; status?: string; sort?: string; limit?: number; cursor?: string };

export const registry = {
  list: (query: ServerListQuery, options?: CallOptions) => get<Page<ServerSummary>>("/servers", query, options),
  detail: (name: string, options?: CallOptions) => get<ServerDetail>(path`/servers/${name}`, undefined, options),
  add: (server: NewServer) => post<ServerDetail>("/servers", server),
  change: (name: string, change: ServerPatch) => patch<ServerDetail>(path`/servers/${name}`, change),
  remove: (name: string) => del<void>(path`/servers/${name}`),
  test: (server: NewServer, options?: CallOptions) => post<TestReport>("/servers/test", server, options),
  probe: (name: string) => post<unknown>(path`/servers/${name}/probe`),
  logIn: (name: string) => post<ServerLoginStarted>(path`/servers/${name}/oauth/start`, { origin: location.origin }),
  importFrom: (format: "mcp_servers" | "server_json", content: string) => post<ImportReport>("/servers/import", { format, content }),
  tools: async (name: string, options?: CallOptions) => itemsOf<Tool>(await get(path`/servers/${name}/tools`, undefined, options), "tools"),
  resources: async (name: string, options?: CallOptions) => itemsOf<McpResource>(await get(path`/servers/${name}/resources`, undefined, options), "resources"),
  prompts: async (name: string, options?: CallOptions) => itemsOf<Prompt>(await get(path`/servers/${name}/prompts`, undefined, options), "prompts"),
  log: async (name: string, options?: CallOptions) => itemsOf<LogLine>(await get(path`/servers/${name}/log`, undefined, options), "lines"),
  history: (name: string, options?: CallOptions) => get<HealthHistory>(path`/servers/${name}/health`, undefined, options),
  call: (name: string, tool: string, args: unknown, options?: CallOptions) =>
    post<CallToolResponse>(path`/servers/${name}/tools/${tool}/call`, { arguments: args }, options),
  read: (name: string, uri: string, options?: CallOptions) => post<CallToolResponse>(path`/servers/${name}/resources/read`, { uri }, options),
  prompt: (name: string, prompt: string, args: unknown, options?: CallOptions) =>
    post<CallToolResponse>(path`/servers/${name}/prompts/${prompt}/get`, { arguments: args }, options),
};

/** The server that is part of every node: it cannot be changed, nor probed. */
export function isBuiltIn(server: { transport: string | null }): boolean {
  return server.transport === "builtin";
}

/** A list as a page of ours or in MCP's own wrapping. */
function itemsOf<T>(answer: unknown, key: string): T[] {
  if (Array.isArray(answer)) return answer as T[];
  const wrapped = (answer ?? {}) as Record<string, unknown>;
  const items = wrapped.items ?? wrapped[key];
  return Array.isArray(items) ? (items as T[]) : [];
}
