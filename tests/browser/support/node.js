// A real `troupe` process with real MCP servers, started for one test file.
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";

const TESTS = resolve(import.meta.dirname, "../..");
const CACHE = join(TESTS, ".cache");
const BINARY = process.env.TROUPE_BIN ?? join(TESTS, "../target/release/troupe");
const READY_WITHIN_MS = 30_000;
const ONLINE_WITHIN_MS = 60_000;

/** The command lines of the real servers that tests/setup fetched. */
export const servers = {
  time: [join(CACHE, "pypi/bin/mcp-server-time"), "--local-timezone", "UTC"],
  everything: [join(CACHE, "npm/node_modules/.bin/mcp-server-everything"), "stdio"],
};

/** Calls `look` until it answers something, and throws saying what was awaited. */
export async function eventually(what, withinMs, look) {
  const end = Date.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${withinMs} ms`);
    await pause(20);
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

export class TroupeNode {
  static async start(...argv) {
    const node = new TroupeNode();
    node.argv = argv;
    node.folder = mkdtempSync(join(tmpdir(), "troupe-browser-"));
    node.data = join(node.folder, "data");
    node.port = await freePort();
    node.base = `http://127.0.0.1:${node.port}`;
    await node.spawn();
    return node;
  }

  /** Starts the process on the data folder, at first or again, and waits until it is ready. */
  async spawn() {
    const log = openSync(join(this.folder, "node.log"), "a");
    const models = join(this.folder, "no-models");
    mkdirSync(models, { recursive: true });
    const argv = ["up", "--listen", `127.0.0.1:${this.port}`, "--data", this.data, ...this.argv];
    this.process = spawn(BINARY, argv, { stdio: ["ignore", log, log], env: { ...process.env, TROUPE_MODELS: models } });
    let ended = null;
    this.ended = new Promise((resolved) => this.process.once("exit", (code) => resolved((ended = code ?? "a signal"))));
    await eventually("the node ready", READY_WITHIN_MS, async () => {
      if (ended !== null) throw new Error(`the node ended with ${ended}:\n${this.log()}`);
      return fetch(`${this.base}/readyz`).then((answer) => answer.ok, () => false);
    });
    this.key = readFileSync(join(this.data, "admin.key"), "utf8").trim();
  }

  log() {
    return readFileSync(join(this.folder, "node.log"), "utf8");
  }

  /** Runs a troupe command against this node; answers the JSON it printed. */
  async cli(...argv) {
    const own = argv.includes("--") ? argv.indexOf("--") : argv.length;
    const line = [...argv.slice(0, own), "--json", "--data", this.data, ...argv.slice(own)];
    const { stdout } = await promisify(execFile)(BINARY, line);
    return JSON.parse(stdout);
  }

  async get(path) {
    const answer = await fetch(`${this.base}${path}`, { headers: { authorization: `Bearer ${this.key}` } });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Registers a server by the command line and waits until it is online. */
  async addServer(name, command) {
    await this.cli("server", "add", name, "--", ...command);
    await eventually(`server ${name} online`, ONLINE_WITHIN_MS, async () => {
      const { status } = await this.get(`/api/v1/servers/${name}`);
      return status === "online";
    });
  }

  /** A login link, as the administrator makes one. */
  async loginLink() {
    const printed = JSON.stringify(await this.cli("key", "login-link"));
    return printed.match(/http:\/\/[^"\\]*\/#\/login\?code=[\w-]+/)[0];
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  async stop() {
    this.process.kill("SIGTERM");
    const late = setTimeout(() => this.process.kill("SIGKILL"), 10_000);
    await this.ended;
    clearTimeout(late);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
