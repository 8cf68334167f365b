import { describe, expect, it } from "vitest";
import { detect, manifestIssues, splitCommand, suggestName } from "./detect";

describe("detect", () => {
  it("knows an mcpServers document", () => {
    const text = JSON.stringify({ mcpServers: { time: { command: "uvx", args: ["mcp-server-time"] }, docs: { url: "https://x.example/mcp" } } });
    expect(detect(text)).toEqual({ kind: "mcp_servers", names: ["time", "docs"] });
  });

  it("knows a server.json and checks it", () => {
    const manifest = { name: "io.github.a/b", description: "Does", version: "1.0.0", packages: [{ registryType: "npm", identifier: "b", transport: { type: "stdio" } }] };
    expect(detect(JSON.stringify(manifest))).toEqual({ kind: "server_json", names: ["io.github.a/b"], issues: [] });
  });

  it.each([
    ["", "empty"],
    ["{", "invalid"],
    ["[]", "invalid"],
    ['{"a":1}', "invalid"],
    ['{"mcpServers":{}}', "invalid"],
    ['{"mcpServers":{"a":{}}}', "invalid"],
  ])("%s is %s", (text, kind) => expect(detect(text).kind).toBe(kind));
});

it("names what is wrong with a manifest", () => {
  expect(manifestIssues({ name: "b", version: "^1.0", packages: [{}], remotes: [{ type: "sse" }] })).toEqual([
    "name: must be reverse DNS with one slash, as io.github.someone/weather",
    "description: needed",
    "version: must be one version, not a range",
    "packages[0].registryType: needed",
    "packages[0].identifier: needed",
    "packages[0].transport: needed",
    "remotes[0].url: needed",
  ]);
});

it.each([
  ["uvx mcp-server-time", ["uvx", "mcp-server-time"]],
  ["a 'b c' \"d e\"f", ["a", "b c", "d ef"]],
  ['say "\\"hi\\""', ["say", '"hi"']],
  ["  ", []],
  ["a ''", ["a", ""]],
])("splits %s", (line, words) => expect(splitCommand(line)).toEqual(words));

it.each([
  ["uvx mcp-server-time --local-timezone UTC", "time"],
  ["npx -y @modelcontextprotocol/server-everything", "everything"],
  ["https://mcp.deepwiki.com/mcp", "deepwiki"],
  ["", ""],
])("suggests a name for %s", (source, name) => expect(suggestName(source)).toBe(name));
