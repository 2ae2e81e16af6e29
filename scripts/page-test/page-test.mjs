// Opens a status page in headless Chromium, takes four screenshots and checks it. See README.md.
import { accessSync, constants, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const axe = createRequire(import.meta.url)("axe-core").source;
const SIZES = [{ width: 390, height: 844 }, { width: 1280, height: 900 }];
const THEMES = ["light", "dark"];
const NARROW = { width: 360, height: 740 };
const WAIT = 15_000;

const [address, folder, ...rest] = process.argv.slice(2);
if (!address || !folder || rest.some((option) => !["--full", "--chain"].includes(option))) {
  console.error("usage: node page-test.mjs URL FOLDER [--full] [--chain]\n\n  --full   the screenshots are of the whole page, not of the first screen\n  --chain  the server is a node: the page has to tell of its chain");
  process.exit(2);
}
const fullPage = rest.includes("--full");
const isNode = rest.includes("--chain");
const origin = new URL(address).origin;
mkdirSync(folder, { recursive: true });

/** The browser: CHROMIUM, one on the PATH, or Playwright's own if it was installed. */
function browserPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    for (const place of (process.env.PATH ?? "").split(delimiter)) {
      try {
        accessSync(join(place, name), constants.X_OK);
        return join(place, name);
      } catch { /* The next one. */ }
    }
  }
  return undefined;
}

let passed = 0;
const failures = [];
function check(what, problems) {
  const list = [problems].flat().filter(Boolean);
  if (list.length) {
    failures.push(what);
    console.log(`not ok: ${what}`);
    for (const problem of list.slice(0, 8)) console.log(`    ${String(problem).replaceAll("\n", "\n    ")}`);
    if (list.length > 8) console.log(`    and ${list.length - 8} more`);
  } else {
    passed += 1;
    console.log(`ok: ${what}`);
  }
}

/** What is wider than the window, by the document's width and by each element's. */
function tooWide() {
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    if (element.closest(".hidden, svg, thead, [hidden]")) return false;
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 1 || box.left < -1);
  });
  const names = wide.slice(0, 5).map((element) => `${element.tagName.toLowerCase()}${element.id && "#" + element.id}.${element.className}: ends at ${Math.round(element.getBoundingClientRect().right)} px`);
  const whole = document.documentElement.scrollWidth;
  return whole > width ? [`the page is ${whole} px wide in a window of ${width} px`, ...names] : names;
}

/** In each section, every list begins where the heading begins, and below what is above it, with no rule drawn on its text. */
function misplaced() {
  const problems = [];
  for (const section of document.querySelectorAll("section.block:not([hidden])")) {
    const left = section.querySelector("h2")?.getBoundingClientRect().left;
    const lists = [...section.querySelectorAll(":scope > dl")];
    for (const [index, list] of lists.entries()) {
      const label = list.querySelector("dt").getBoundingClientRect();
      const name = `${section.id || section.getAttribute("aria-label")}: “${list.querySelector("dt").textContent}”`;
      if (Math.abs(label.left - left) > 1) problems.push(`${name} begins at ${label.left} px, the heading at ${left} px`);
      const above = lists[index - 1];
      if (!above) continue;
      const rule = parseFloat(getComputedStyle(above).borderBottomWidth);
      const room = label.top - above.getBoundingClientRect().bottom;
      const text = label.top - above.querySelector("dd").getBoundingClientRect().bottom;
      if (rule > 0 && room < 4) problems.push(`${name} is ${room} px below a rule`);
      if (text < 4) problems.push(`${name} is ${text} px below what is above it`);
    }
  }
  return problems;
}

/** The page of a node tells of its chain what the server says of it; any other page has no such section. */
async function chain(page) {
  const section = page.locator("#chain");
  if (!isNode) return await section.isVisible() ? "there is a chain, and the server has none" : [];
  if (!await section.isVisible()) return "there is no section on the chain";
  let problems = [];
  // The page and the answer can be of different moments: again, until they agree.
  for (const until = Date.now() + WAIT; Date.now() < until; await page.waitForTimeout(200)) {
    const said = (await (await page.request.get(new URL("/v1/status", address).href)).json()).chain;
    const height = await page.locator("#chain-counts > div", { hasText: "Height" }).locator("dd").textContent();
    const hash = await page.locator("#chain-hash").textContent();
    const isShown = said.hash && (hash.includes(said.hash.slice(-8)) || hash.includes(said.hash.slice(0, 8)));
    if (isShown && height.replace(/\D/g, "") === String(said.height)) return [];
    problems = [`the page says “${height}” and “${hash}”, the server ${said.height} and ${said.hash}`];
  }
  return problems;
}

/** Opens whatever can be opened. */
async function unfold(page) {
  await page.evaluate(() => {
    for (const element of document.querySelectorAll("details:not([open]) > summary, [aria-expanded='false']")) if (element.checkVisibility()) element.click();
  });
  await page.waitForTimeout(1200);
}

/** Without its events the page says that it has no connection, and it comes back by its button. */
async function withoutEvents(page) {
  const headline = (wanted) => page.waitForFunction((text) => (document.querySelector("h1").textContent === "No connection") === text, wanted, { timeout: WAIT }).then(() => true, () => false);
  await page.route("**/v1/events", (route) => route.abort());
  await page.goto(address, { waitUntil: "load", timeout: WAIT });
  if (!await headline(true)) return `the headline is “${await page.locator("h1").textContent()}” without a connection`;
  const button = page.getByRole("button", { name: "Connect now" });
  if (!await button.isVisible()) return "there is no button “Connect now”";
  await page.unroute("**/v1/events");
  await button.click();
  if (!await headline(false) || !await page.locator("#workers tr").first().isVisible({ timeout: WAIT })) return "it does not come back by its button";
  return [];
}

/** Presses Tab until the focus has left the page; returns what was not reached or has no visible focus. */
async function tabThrough(page) {
  await page.evaluate(() => {
    document.activeElement?.blur();
    window.getSelection()?.removeAllRanges();
    window.reached = new Set();
  });
  const problems = [];
  for (let step = 0; step < 400; step++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return { out: true };
      if (window.reached.has(element)) return { out: true };
      window.reached.add(element);
      const style = getComputedStyle(element), box = element.getBoundingClientRect();
      const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && !/rgba\(.*, 0\)/.test(style.outlineColor);
      const bar = document.querySelector("header").getBoundingClientRect();
      const inHeader = Boolean(element.closest("header, .skip"));
      const seen = box.width > 0 && box.bottom > (inHeader ? 0 : bar.bottom) && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
      return { name: `${element.tagName.toLowerCase()} “${element.textContent.trim().slice(0, 40)}”`, outlined, seen };
    });
    if (at.out) break;
    if (!at.outlined) problems.push(`no visible focus outline: ${at.name}`);
    if (!at.seen) problems.push(`out of sight while it has the focus: ${at.name}`);
  }
  const rest = await page.evaluate(() => {
    const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])")];
    const open = all.filter((element) => !element.disabled && element.checkVisibility({ visibilityProperty: true }));
    return { total: open.length, missed: open.filter((element) => !window.reached.has(element)).map((element) => `${element.tagName.toLowerCase()} “${element.textContent.trim().slice(0, 40)}”`) };
  });
  if (!rest.total) problems.push("nothing on the page can have the focus");
  return [...problems, ...rest.missed.map((name) => `not reached by Tab: ${name}`)];
}

async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => (await window.axe.run(document, { resultTypes: ["violations"] })).violations);
  return found.filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, impact, help, nodes }) => `${impact}: ${id}: ${help}\n${nodes.slice(0, 4).map((node) => `  ${node.target.join(" ")}: ${node.any[0]?.message ?? ""}`).join("\n")}`);
}

const browser = await chromium.launch({ executablePath: browserPath(), args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
try {
  for (const colorScheme of THEMES) {
    for (const viewport of SIZES) {
      const what = `${viewport.width}x${viewport.height} ${colorScheme}`;
      const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
      const page = await context.newPage();
      const errors = [], foreign = [];
      page.on("console", (message) => { if (["error", "warning"].includes(message.type())) errors.push(message.text()); });
      page.on("pageerror", (error) => errors.push(error.stack ?? error.message));
      page.on("request", (request) => {
        const url = new URL(request.url());
        if (url.protocol !== "data:" && url.origin !== origin) foreign.push(request.url());
      });

      const answer = await page.goto(address, { waitUntil: "load", timeout: WAIT });
      check(`${what}: the page is served`, answer.ok() ? [] : `status ${answer.status()}`);
      const states = ["Serving", "Degraded", "Draining", "Unready", "Starting"];
      await page.waitForFunction((known) => known.includes(document.querySelector("h1")?.textContent), states, { timeout: WAIT }).catch(() => {});
      const state = await page.locator("h1").first().textContent().catch(() => "");
      check(`${what}: the headline is a state`, states.includes(state) ? [] : `the headline is “${state}”`);
      const rows = await page.locator("#workers tr").count();
      check(`${what}: there is a worker`, rows ? [] : "the table of workers has no row");
      const figures = () => page.evaluate(() => ["link", "uptime", "rate", "p50", "totals"].map((id) => document.getElementById(id)?.textContent).join("|"));
      const before = await figures();
      let after = before;
      for (const until = Date.now() + WAIT; after === before && Date.now() < until; after = await figures()) await page.waitForTimeout(100);
      check(`${what}: snapshots are applied`, after !== before ? [] : `no figure changed in ${WAIT / 1000} s: ${before}`);
      check(`${what}: ${isNode ? "the chain is told of" : "no chain is told of"}`, await chain(page));
      const drawn = await page.evaluate(() => [...document.querySelectorAll(".plot svg")].map((svg) => svg.querySelectorAll("text").length));
      check(`${what}: lists are in line with their headings`, await page.evaluate(misplaced));
      check(`${what}: both plots have axes`, drawn.length === 2 && drawn.every((count) => count > 4) ? [] : `texts in the plots: ${drawn}`);

      const file = join(folder, `${viewport.width}x${viewport.height}-${colorScheme}.png`);
      await page.screenshot({ path: file, fullPage });
      console.log(`    screenshot ${file}`);

      check(`${what}: nothing is wider than the window`, await page.evaluate(tooWide));
      await unfold(page);
      check(`${what}: nothing is wider than the window when all is unfolded`, await page.evaluate(tooWide));
      check(`${what}: axe finds nothing serious`, await violations(page));
      check(`${what}: everything is reached by Tab, visibly`, await tabThrough(page));
      if (viewport === SIZES[0]) {
        await page.setViewportSize(NARROW);
        await page.waitForTimeout(300);
        check(`${NARROW.width} px ${colorScheme}: nothing is wider than the window`, await page.evaluate(tooWide));
      }
      check(`${what}: no error and no warning on the console`, errors);
      check(`${what}: no request to another origin`, foreign);
      await context.close();
    }
    const page = await browser.newPage({ viewport: NARROW, colorScheme });
    check(`${colorScheme}: without events the page says so, and comes back`, await withoutEvents(page));
    await page.close();
  }
} catch (error) {
  check("the test comes to its end", error.message.split("\n")[0]);
} finally {
  await browser.close();
}
console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length ? 1 : 0);
