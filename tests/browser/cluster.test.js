// Console: two nodes seen from one of them; a node is invited, drained, undrained and removed.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PHONE, THEMES, assertAccessible, assertNoComplaints, launch, loggedIn, screenshot } from "./support/browser.js";
import { TroupeNode, eventually } from "./support/node.js";

let alpha;
let beta;
let browser;

before(async () => {
  alpha = await TroupeNode.start("--name", "alpha");
  const { join } = await alpha.cli("node", "invite");
  beta = await TroupeNode.start("--name", "beta", "--join", join);
  await eventually("both nodes up", 30_000, async () => (await members()).every(({ state }) => state === "up"));
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await beta?.stop();
  await alpha?.stop();
});

async function members() {
  return (await alpha.get("/api/v1/cluster")).members;
}

async function openCluster(options) {
  const page = await loggedIn(browser, alpha, options);
  await page.goto(`${alpha.base}/#/console/cluster`);
  await page.getByRole("region", { name: "Nodes" }).waitFor();
  return page;
}

/** Chooses what is done with beta, and types its name where that is asked for. */
async function confirmed(page, action) {
  await page.getByRole("button", { name: "Actions for beta" }).click();
  await page.getByRole("button", { name: action, exact: true }).click();
  const dialog = page.getByRole("dialog", { name: `${action} beta` });
  const confirm = dialog.getByRole("button", { name: action, exact: true });
  assert.ok(await confirm.isDisabled(), "not before it is confirmed by typing");
  await dialog.getByRole("textbox").fill("beta");
  await confirm.click();
  await dialog.waitFor({ state: "detached" });
}

for (const theme of THEMES) {
  for (const [device, viewport] of Object.entries({ desktop: undefined, phone: PHONE })) {
    test(`both nodes are seen, ${theme}, ${device}`, async () => {
      const page = await openCluster({ theme, ...(viewport && { viewport }) });
      for (const name of ["alpha", "beta"]) await page.getByRole("row").filter({ hasText: name }).first().waitFor();
      await screenshot(page, `console-cluster-${theme}-${device}`);
      await assertAccessible(page, `the cluster (${theme}, ${device})`);
      assertNoComplaints(page, "the cluster");
    });
  }
}

test("an invitation is shown once, to be copied", async () => {
  const page = await openCluster();
  await page.getByRole("button", { name: "Invite a node" }).click();
  const dialog = page.getByRole("dialog", { name: "Invite a node" });
  await dialog.getByText(/^troupe up --join \S+$/).waitFor();
  await dialog.getByRole("button", { name: "Copy command" }).waitFor();
  await assertAccessible(page, "an invitation");
  await dialog.getByRole("button", { name: "I have it" }).click();
  await dialog.waitFor({ state: "detached" });
  const audit = JSON.stringify(await alpha.get("/api/v1/audit"));
  assert.match(audit, /node\.invite/, "it is in the audit log");
});

test("actors of the other node are seen, live, and reached", async () => {
  const page = await loggedIn(browser, alpha);
  await page.goto(`${alpha.base}/#/console/actors`);
  await page.getByRole("searchbox").fill("beta/registry");
  await page.getByRole("link", { name: "beta/registry" }).click();
  await page.getByText("on beta").waitFor();
  await page.getByRole("region", { name: "State" }).waitFor();
  await page.getByRole("button", { name: "Suspend" }).click();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByRole("button", { name: "Suspend" }).waitFor();
  assertNoComplaints(page, "an actor of the other node");
});

test("a node is drained, undrained and removed after typing its name", async () => {
  const page = await openCluster();
  const state = async () => (await members()).find(({ name }) => name === "beta")?.state;
  await confirmed(page, "Drain");
  await eventually("beta draining", 20_000, async () => (await state()) === "draining");
  await page.getByRole("row").filter({ hasText: "beta" }).getByText("draining").waitFor();
  await confirmed(page, "Undrain");
  await eventually("beta up", 20_000, async () => (await state()) === "up");
  await confirmed(page, "Remove");
  await eventually("beta gone", 20_000, async () => (await members()).length === 1);
  await page.getByRole("row").filter({ hasText: "beta" }).waitFor({ state: "detached" });
  assertNoComplaints(page, "draining and removing");
});
