// Real Chromium, driven without a browser of the driver's own; what a page complains about fails its test.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const axeSource = createRequire(import.meta.url)("axe-core").source;
const SCREENSHOTS = resolve(import.meta.dirname, "../../screenshots");
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const THEMES = ["light", "dark"];
export const DESKTOP = { width: 1360, height: 860 };
export const PHONE = { width: 390, height: 844 };

function chromiumPath() {
  const names = [process.env.TROUPE_CHROMIUM, "chromium", "chromium-browser", "google-chrome"].filter(Boolean);
  for (const name of names) {
    try {
      return execFileSync("sh", ["-c", 'command -v "$0"', name], { encoding: "utf8" }).trim();
    } catch {
      // the next one
    }
  }
  throw new Error("no Chromium; run tests/setup chromium");
}

export function launch() {
  return chromium.launch({ executablePath: chromiumPath(), args: FLAGS });
}

/** A page of a person of its own: no cookies, this system theme. `page.complaints` collects what goes wrong. */
export async function open(browser, { theme = "light", viewport = DESKTOP } = {}) {
  const context = await browser.newContext({ viewport, colorScheme: theme, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(`uncaught: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") page.complaints.push(`console: ${message.text()}`);
  });
  return page;
}

/** A page that is logged in: by a link as the administrator, or with a key as its owner. */
export async function loggedIn(browser, node, options, key) {
  const page = await open(browser, options);
  await page.goto(key === undefined ? await node.loginLink() : node.base);
  if (key !== undefined) {
    await page.getByLabel("Key").fill(key);
    await page.getByRole("button", { name: "Log in" }).click();
  }
  await page.getByRole("navigation", { name: "Places" }).waitFor();
  // before the login the page asks who it is, and the node says: nobody
  page.complaints = page.complaints.filter((complaint) => !complaint.includes("401"));
  return page;
}

/** Asserts that axe finds nothing on the page as it is now. */
export async function assertAccessible(page, where) {
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const said = violations.map(
    ({ id, help, nodes }) => `${id}: ${help}\n${nodes.map((node) => `    ${node.target.join(" ")}: ${node.failureSummary}`).join("\n")}`,
  );
  assert.equal(violations.length, 0, `${where}: axe finds\n${said.join("\n")}`);
}

export function assertNoComplaints(page, where) {
  assert.deepEqual(page.complaints, [], `${where}: the page complained`);
}

/** Writes a screenshot for eyes; nothing is compared. */
export async function screenshot(page, name) {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
}
