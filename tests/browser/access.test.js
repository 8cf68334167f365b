// Every route in both themes and on a phone: axe finds nothing, nothing complains, screenshots for eyes.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DESKTOP, PHONE, THEMES, assertAccessible, assertNoComplaints, launch, loggedIn, open, screenshot } from "./support/browser.js";
import { TroupeNode, servers } from "./support/node.js";

let node;
let browser;
let routes;

before(async () => {
  node = await TroupeNode.start();
  browser = await launch();
  await node.addServer("time", servers.time);
  await node.addServer("everything", servers.everything);
  await node.cli("server", "add", "broken", "--", "sh", "-c", "echo out of ink >&2; exit 3");
  const answer = await node.cli("ask", "what time is it in Tokyo?");
  const actors = await node.get("/api/v1/actors");
  const list = actors.items ?? actors;
  const registry = list.find(({ path }) => path === "node/registry");
  routes = {
    "chat-welcome": "/chat",
    "chat-answer": `/chat/${answer.conversation_id}`,
    "registry-servers": "/registry",
    "server-overview": "/registry/servers/everything",
    "server-tools": "/registry/servers/everything/tools",
    "server-broken": "/registry/servers/broken",
    "registry-find": "/registry/tools",
    "registry-secrets": "/registry/secrets",
    "registry-keys": "/registry/keys",
    "registry-audit": "/registry/audit",
    "console-overview": "/console",
    "console-cluster": "/console/cluster",
    "console-supervision": "/console/supervision",
    "console-calls": "/console/calls",
    "console-dead-letters": "/console/dead-letters",
    "console-actors": "/console/actors",
    "console-actor": `/console/actors/${registry.id}`,
    "console-traces": "/console/traces",
    "console-trace": `/console/traces/${answer.correlation_id}`,
    "not-found": "/no/such/page",
  };
});
after(async () => {
  await browser?.close();
  await node?.stop();
});

for (const theme of THEMES) {
  for (const [device, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    test(`every route, ${theme}, ${device}`, async (t) => {
      const page = await loggedIn(browser, node, { theme, viewport });
      for (const [name, route] of Object.entries(routes)) {
        await t.test(name, async () => {
          await page.goto(`${node.base}/#${route}`);
          await page.getByRole("main").waitFor();
          await page.getByRole("heading", { level: 1 }).first().waitFor({ state: "attached" });
          await page.waitForFunction(() => document.querySelector("[aria-busy=true]") === null);
          await screenshot(page, `${theme}-${device}-${name}`);
          await assertAccessible(page, `${name} (${theme}, ${device})`);
          const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
          assert.ok(wider <= 0, `${name}: the page is ${wider} px wider than the ${device}`);
          assertNoComplaints(page, name);
        });
      }
    });
  }

  test(`the door, ${theme}`, async () => {
    const page = await open(browser, { theme });
    await page.goto(node.base);
    await page.getByLabel("Key").waitFor();
    await screenshot(page, `${theme}-desktop-login`);
    await assertAccessible(page, `login (${theme})`);
  });
}

test("a chosen theme is remembered, and is there before the first paint", async () => {
  const page = await loggedIn(browser, node, { theme: "light" });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.getByTitle("You and appearance").click();
  await page.getByText("Dark", { exact: true }).click();
  const dark = await background();
  assert.notEqual(dark, light);
  await page.reload({ waitUntil: "commit" });
  await page.waitForFunction(() => document.body !== null);
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.getByRole("navigation", { name: "Places" }).waitFor();
  assert.equal(await background(), dark);
});

test("the first paint is small", async () => {
  const page = await open(browser);
  const scripts = [];
  page.on("response", (response) => {
    if (response.url().endsWith(".js")) scripts.push(response);
  });
  await page.goto(node.base, { waitUntil: "networkidle" });
  let bytes = 0;
  for (const response of scripts) {
    const sizes = await response.request().sizes();
    bytes += sizes.responseBodySize;
  }
  assert.ok(scripts.length > 0);
  console.log(`MEASURED initial JavaScript: ${Math.round(bytes / 1024)} kB compressed (limit 150 kB)`);
  assert.ok(bytes < 150 * 1024, `${bytes} bytes of JavaScript before the first page`);
});
