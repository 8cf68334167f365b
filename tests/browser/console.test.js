// Console: the running node from inside, live; an actor is suspended, restarted and killed, and the node lives on.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, assertNoComplaints, launch, loggedIn, screenshot } from "./support/browser.js";
import { TroupeNode, eventually, servers } from "./support/node.js";

const ACTOR = "node/registry";

let node;
let browser;

before(async () => {
  node = await TroupeNode.start();
  browser = await launch();
  await node.addServer("time", servers.time);
});
after(async () => {
  await browser?.close();
  await node?.stop();
});

async function report() {
  const { items } = await node.get("/api/v1/actors");
  return items.find(({ path }) => path === ACTOR);
}

async function openActor(page) {
  await page.goto(`${node.base}/#/console/actors/${(await report()).id}`);
  await page.getByRole("region", { name: "State" }).waitFor();
}

/** Presses one of the ending buttons and types what the dialog asks for. */
async function confirmed(page, action) {
  await page.getByRole("button", { name: action, exact: true }).click();
  const dialog = page.getByRole("dialog", { name: new RegExp(`^${action}`) });
  const confirm = dialog.getByRole("button", { name: action, exact: true });
  assert.ok(await confirm.isDisabled(), "not before it is confirmed by typing");
  await screenshot(page, `console-${action.toLowerCase()}-confirm`);
  await dialog.getByRole("textbox").fill(await dialog.locator("label code").innerText());
  await confirm.click();
  await dialog.waitFor({ state: "detached" });
}

test("the supervision tree shows every family, and leads to an actor", async () => {
  const page = await loggedIn(browser, node);
  await page.goto(`${node.base}/#/console/supervision`);
  const tree = page.getByRole("group", { name: "Tree" });
  await tree.getByRole("link", { name: /^registry,/ }).waitFor();
  const { items } = await node.get("/api/v1/actors");
  assert.ok(items.length > 10, `only ${items.length} actors`);
  await screenshot(page, "console-supervision");
  await tree.getByRole("link", { name: /^registry,/ }).click();
  await page.waitForURL(/\/console\/actors\/\d+/);
  await page.getByRole("region", { name: "Latest messages" }).waitFor();
  await screenshot(page, "console-actor");
  assertNoComplaints(page, "tree and actor");
});

test("the table of actors is live, sorted and searched", async () => {
  const page = await loggedIn(browser, node);
  await page.goto(`${node.base}/#/console/actors`);
  const table = page.getByRole("table", { name: "Actors" });
  await table.getByRole("row").filter({ hasText: "registry" }).first().waitFor();
  await page.getByRole("searchbox").fill("upstream");
  await table.getByRole("row").filter({ hasText: "registry" }).first().waitFor({ state: "detached" });
  assert.ok((await table.getByRole("row").count()) > 1, "the upstreams are found");
  assertNoComplaints(page, "the table of actors");
});

test("an actor is suspended and resumed", async () => {
  const page = await loggedIn(browser, node);
  await openActor(page);
  await page.getByRole("button", { name: "Suspend" }).click();
  await page.getByRole("button", { name: "Resume" }).waitFor();
  await eventually("the registry suspended", 5_000, async () => (await report()).status === "suspended");
  await page.getByRole("button", { name: "Resume" }).click();
  await eventually("the registry resumed", 5_000, async () => (await report()).status !== "suspended");
  await page.getByRole("button", { name: "Suspend" }).waitFor();
  assertNoComplaints(page, "suspend and resume");
});

test("an actor is restarted and killed after typing its name, and comes back with its state", async () => {
  const page = await loggedIn(browser, node);
  const restartsBefore = (await report()).restarts;
  for (const [round, action] of ["Restart", "Kill"].entries()) {
    await openActor(page);
    await confirmed(page, action);
    await eventually(`${action} done`, 10_000, async () => {
      const now = await report();
      return now?.restarts === restartsBefore + round + 1 && ["idle", "busy"].includes(now.status);
    });
  }
  await page.reload();
  await page.getByRole("region", { name: "Life" }).waitFor();
  await screenshot(page, "console-actor-restarted");
  await assertAccessible(page, "an actor that was restarted");
  assert.equal((await node.get("/api/v1/servers/time")).status, "online", "the registry kept what it knew");
  const audit = JSON.stringify(await node.get("/api/v1/audit"));
  assert.match(audit, /kill/, "it is in the audit log");
});

test("a trace is read as a waterfall", async () => {
  const answer = await node.cli("ask", "what time is it in Tokyo?");
  const page = await loggedIn(browser, node);
  await page.goto(`${node.base}/#/console/traces/${answer.correlation_id}`);
  const waterfall = page.getByRole("region", { name: "Waterfall" });
  await waterfall.waitFor();
  const steps = waterfall.getByRole("button", { pressed: false });
  assert.ok((await steps.count()) >= 3, `only ${await steps.count()} steps`);
  await steps.nth(1).click();
  await page.getByRole("region", { name: "Step" }).waitFor();
  await screenshot(page, "console-trace-step");
  await assertAccessible(page, "a trace with a chosen step");
  assertNoComplaints(page, "a trace");
});

test("a user sees no console", async () => {
  const { key } = await node.cli("key", "add", "una", "--role", "user");
  const page = await loggedIn(browser, node, {}, key);
  assert.equal(await page.getByRole("link", { name: "Console" }).count(), 0);
  await page.goto(`${node.base}/#/console`);
  await page.getByText("needs the operator role").waitFor();
});
