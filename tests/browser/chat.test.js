// Chat: a question in words, its answer by a real server, the route it took and its trace.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertNoComplaints, launch, loggedIn, open, screenshot } from "./support/browser.js";
import { TroupeNode, servers } from "./support/node.js";

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

/** Hours of the day in Tokyo around now: the answer may fall just before or after a full hour. */
function tokyoHours() {
  const hour = (at) => new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Tokyo", hour: "2-digit", hourCycle: "h23" }).format(at);
  return [Date.now() - 60_000, Date.now()].map((at) => `${hour(at)}:`);
}

async function ask(page, text) {
  await page.getByRole("textbox", { name: "Message" }).fill(text);
  await page.keyboard.press("Enter");
  const article = page.getByRole("article", { name: "Question and answer" }).last();
  await article.getByRole("link", { name: "Trace" }).first().waitFor();
  return article;
}

test("without a key there is only the door, and a wrong key is refused", async () => {
  const page = await open(browser);
  await page.goto(node.base);
  await page.getByLabel("Key").fill("trp_wrong");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").or(page.getByText(/key/i).nth(1)).first().waitFor();
  assert.equal(await page.getByRole("navigation", { name: "Places" }).count(), 0);
  await screenshot(page, "login-refused");
  await page.getByLabel("Key").fill(node.key);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("navigation", { name: "Places" }).waitFor();
  assert.doesNotMatch(page.url(), /code=/);
  const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!stored.includes(node.key), "the key is in no storage that scripts can read");
  assert.ok(!stored.includes("troupe_session"), "the session's cookie is not for scripts");
});

test("a login link works once", async () => {
  const link = await node.loginLink();
  const first = await open(browser);
  await first.goto(link);
  await first.getByRole("navigation", { name: "Places" }).waitFor();
  const second = await open(browser);
  await second.goto(link);
  await second.getByText("The login link did not work").waitFor();
});

test("the question about Tokyo is answered by the time server, with route and trace", async () => {
  const page = await loggedIn(browser, node);
  const article = await ask(page, "what time is it in Tokyo?");
  const text = await article.innerText();
  assert.ok(tokyoHours().some((hour) => text.includes(hour)), `${text}\nhas none of ${tokyoHours()}`);

  const route = article.locator("details").filter({ hasText: "Routed to" });
  await route.locator("summary").click();
  await route.getByText("Considered").waitFor();
  assert.match(await route.innerText(), /time · get_current_time/);
  const call = article.locator("details").filter({ hasText: "get_current_time on time" });
  await call.locator("summary").click();
  assert.match(await call.innerText(), /Asia\/Tokyo/);
  await screenshot(page, "chat-tokyo");

  const correlation = (await article.getByRole("link", { name: "Trace" }).last().getAttribute("href")).split("/").at(-1);
  await article.getByRole("link", { name: "Trace" }).last().click();
  await page.waitForURL(new RegExp(`/console/traces/${correlation}`));
  await page.getByText(/conversation/).first().waitFor();
  await screenshot(page, "trace-tokyo");
  assertNoComplaints(page, "chat and trace");
});

test("when nothing fits the answer says so", async () => {
  const page = await loggedIn(browser, node);
  const article = await ask(page, "please book me a table for two at the trattoria");
  assert.equal(await article.locator("details").filter({ hasText: "Arguments" }).count(), 0, "nothing was called");
  assert.match(await article.innerText(), /nothing fits/i);
  assertNoComplaints(page, "nothing fits");
});

test("a conversation is kept, renamed and found again after a reload", async () => {
  const page = await loggedIn(browser, node);
  await ask(page, "which servers are registered?");
  await page.waitForURL(/\/chat\/\w+/);
  await page.reload();
  await page.getByRole("article", { name: "Question and answer" }).first().waitFor();
  const current = page.getByRole("complementary", { name: "Conversations" }).locator("[aria-current=page]");
  await current.hover();
  await page.getByRole("button", { name: /^Actions for/ }).first().click();
  await page.getByRole("button", { name: "Rename" }).click();
  await page.getByLabel("Title").fill("About servers");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: /About servers/ }).waitFor();
  const kept = await node.get("/api/v1/conversations");
  assert.ok(kept.items.some(({ title }) => title === "About servers"));
  assertNoComplaints(page, "conversation list");
});

test("the page says so when the node is gone, and comes back with it", async () => {
  const page = await loggedIn(browser, node);
  await ask(page, "what time is it in Tokyo?");
  await node.kill();
  await page.getByText("The connection to the node is lost").waitFor();
  await node.spawn();
  await page.getByText("The connection to the node is lost").waitFor({ state: "hidden", timeout: 30_000 });
  assert.equal(await page.getByRole("article", { name: "Question and answer" }).count(), 1);
});
