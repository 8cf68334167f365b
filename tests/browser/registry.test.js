// Registry: a server is tested, added, tried, watched and removed, as an administrator does it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, assertNoComplaints, launch, loggedIn, screenshot } from "./support/browser.js";
import { TroupeNode, eventually, servers } from "./support/node.js";

let node;
let browser;

before(async () => {
  node = await TroupeNode.start();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await node?.stop();
});

const row = (page, name) => page.getByRole("row").filter({ has: page.getByRole("button", { name: `Actions for ${name}`, exact: true }) });
const quoted = (command) => command.map((word) => (/\s/.test(word) ? `"${word}"` : word)).join(" ");

async function openDialog(page) {
  await page.goto(`${node.base}/#/registry`);
  await page.getByRole("button", { name: "Add server" }).click();
  return page.getByRole("dialog", { name: "Add server" });
}

test("a connection is tested before the server is added, and its status is pushed to the list", async () => {
  const page = await loggedIn(browser, node);
  const watcher = await loggedIn(browser, node);
  await watcher.goto(`${node.base}/#/registry`);
  await row(watcher, "troupe").waitFor();

  const dialog = await openDialog(page);
  await dialog.getByLabel("Command", { exact: true }).fill("no-such-command-anywhere");
  await dialog.getByRole("button", { name: "Test connection" }).click();
  await dialog.getByText("it does not answer").waitFor();
  assert.match(await dialog.innerText(), /no-such-command-anywhere/);

  await dialog.getByLabel("Command", { exact: true }).fill(quoted(servers.everything));
  await dialog.getByLabel("Name", { exact: true }).fill("everything");
  await dialog.getByRole("button", { name: "Test connection" }).click();
  await dialog.getByText("it answers").waitFor({ timeout: 60_000 });
  assert.match(await dialog.innerText(), /\d+ tools/);
  await screenshot(page, "registry-add-tested");
  await assertAccessible(page, "the dialog to add a server");
  assert.equal((await node.get("/api/v1/servers")).total, 1, "testing saves nothing");

  await dialog.getByRole("button", { name: "Register" }).click();
  await page.waitForURL(/\/registry\/servers\/everything/);
  await row(watcher, "everything").getByText("online", { exact: true }).waitFor({ timeout: 60_000 });
  await screenshot(watcher, "registry-list");
  assertNoComplaints(watcher, "the list");
  assertNoComplaints(page, "adding a server");
});

test("a tool is tried with a form made from its schema", async () => {
  const page = await loggedIn(browser, node);
  await page.goto(`${node.base}/#/registry/servers/everything/tools?use=get-sum`);
  const form = page.locator("form").filter({ has: page.getByRole("button", { name: "Call" }) });
  await form.getByLabel(/^a\b/).fill("19");
  await form.getByLabel(/^b\b/).fill("23");
  await form.getByRole("button", { name: "Call" }).click();
  await page.getByText(/is 42/).first().waitFor();
  await screenshot(page, "server-try-tool");
  await assertAccessible(page, "a tool's form with its result");
  assertNoComplaints(page, "trying a tool");
});

test("the mcpServers JSON of a desktop client is pasted in, and secrets in it are not seen again", async () => {
  const page = await loggedIn(browser, node);
  const planted = "planted-in-the-page-Jv3kP8sXq";
  const [command, ...args] = servers.time;
  const document = JSON.stringify({ mcpServers: { clock: { command, args, env: { API_TOKEN: planted } } } });
  const dialog = await openDialog(page);
  await dialog.getByText("Paste JSON").click();
  await dialog.getByLabel("server.json or mcpServers").fill(document);
  await dialog.getByText(/with 1 server: clock/).waitFor();
  await dialog.getByRole("button", { name: "Register" }).click();
  await dialog.getByRole("button", { name: "Close" }).or(row(page, "clock").first()).first().waitFor();
  await page.goto(`${node.base}/#/registry/servers/clock`);
  await page.getByText("online", { exact: true }).first().waitFor({ timeout: 60_000 });
  await page.reload();
  await page.getByText("API_TOKEN").first().waitFor();
  assert.ok(!(await page.content()).includes(planted), "the page shows the secret");
  const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  assert.ok(!stored.includes(planted), "the browser keeps the secret");
});

test("a server is searched, disabled, and de-registered after its name is typed", async () => {
  const page = await loggedIn(browser, node);
  await page.goto(`${node.base}/#/registry`);
  await row(page, "clock").waitFor();
  await page.getByRole("searchbox", { name: "Search servers" }).fill("everyth");
  await row(page, "clock").waitFor({ state: "detached" });
  await row(page, "everything").getByRole("button", { name: "Actions for everything" }).click();
  await page.getByRole("button", { name: "Disable", exact: true }).click();
  await row(page, "everything").getByText("disabled", { exact: true }).waitFor();

  await row(page, "everything").getByRole("button", { name: "Actions for everything" }).click();
  await page.getByRole("button", { name: "De-register" }).click();
  const dialog = page.getByRole("dialog", { name: "De-register everything" });
  const confirm = dialog.getByRole("button", { name: "De-register" });
  assert.ok(await confirm.isDisabled(), "not before the name is typed");
  await dialog.getByRole("textbox").fill("everything");
  await confirm.click();
  await row(page, "everything").waitFor({ state: "detached" });
  await eventually("the server gone", 5_000, async () => (await node.get("/api/v1/servers")).total === 2);
  assertNoComplaints(page, "changing the registry");
});
