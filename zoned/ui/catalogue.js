// Finding images, and in which zones their bytes are said to be.

import { h, show } from "./dom.js";
import { ask } from "./feed.js";
import { moment, plural } from "./words.js";

const SHOWN_MAX = 10;
const SAID = [["verified", "✓", "ok"], ["claimed", "○", "ok"], ["absent", "✕", "crit"], ["wanted", "◇", "warn"]];
const native = (reference) => `../zone/v1/images/${encodeURIComponent(reference)}`;
const REFERENCE = /^([0-9]{1,16}|ami-[0-9a-f]{8}|[0-9a-f-]{36})$/i;

// The records that a text means: one by its reference, or those of that name; without a text the newest.
async function find(text) {
  if (!text) return (await ask(`../zone/v1/images?limit=${SHOWN_MAX}`)).images;
  const one = REFERENCE.test(text) || /^[a-z0-9._-]+$/.test(text) ? await ask(native(text)).catch((error) => { if (REFERENCE.test(text)) throw error; return null; }) : null;
  if (one) return [one];
  const named = await ask(`../v2/images?name=${encodeURIComponent(text)}&limit=${SHOWN_MAX}`);
  return (named?.images ?? []).map((image) => ({ ...image, uuid: image.id, integer: image.zoned_id }));
}

async function withPresence(images) {
  const found = await Promise.all(images.map((image) => ask(`${native(image.uuid)}/presence`).catch(() => null)));
  return images.map((image, n) => ({ ...image, presence: found[n] }));
}

function said(image, zone) {
  if (!image.presence) return h("td", { class: "quiet" }, h("span", { role: "img", "aria-label": "not known" }, "–"));
  const there = image.presence.zones.find((one) => one.zone === zone);
  // At one moment the later word counts; the daemon has left out what no longer holds.
  const [word, sign, state] = SAID.find(([kind]) => there?.[kind]) ?? [null, "·", "quiet"];
  const words = word ? `${word} since ${there[word]}` : "nothing is said";
  return h("td", {}, h("span", { class: `sign ${state}`, role: "img", "aria-label": words, title: words }, sign));
}

function table(images, zones, now) {
  return h("table", {}, h("caption", {}, h("ul", { class: "signs quiet" }, SAID.map(([word, sign, state]) => h("li", {}, h("span", { class: `sign ${state}`, "aria-hidden": "true" }, sign), ` ${word}`)), h("li", {}, "· nothing is said"))),
    h("thead", {}, h("tr", {}, ["Image", "Integer", "Status", "Made"].map((one) => h("th", { scope: "col" }, one)), zones.map((one) => h("th", { scope: "col" }, one)), h("th", { scope: "col" }, "Boots here"))),
    h("tbody", {}, images.map((image) => h("tr", {},
      h("th", { scope: "row" }, h("a", { class: "json", href: native(image.uuid) }, image.name || "(no name)"), h("br"), h("code", { class: "quiet" }, image.uuid)),
      h("td", { class: "number" }, image.integer ?? "later"), h("td", {}, image.status), h("td", { class: "number" }, image.created_at ? moment(image.created_at, now) : "–"),
      zones.map((zone) => said(image, zone)),
      h("td", {}, image.presence ? h("span", { title: image.presence.why }, image.presence.bootable_here ? "yes" : "no", h("span", { class: "quiet why" }, ` ${image.presence.why}`)) : "–")))));
}

// `zones()` names the zones that are known by now. `onTrouble(error)` hears of what went wrong.
// Returns what searches again; its `failed` says whether that is wanted.
export function open(section, zones, onTrouble) {
  const [form, query, told, body] = ["form", "input", "#found", ".body"].map((one) => section.querySelector(one));
  let asked = 0;
  async function search() {
    const mine = ++asked, text = query.value.trim();
    told.textContent = "Looking.";
    try {
      search.failed = false;
      const images = await withPresence(await find(text));
      if (mine !== asked) return;
      show(body, images.length ? table(images, zones(), Date.now()) : []);
      const what = images.length ? plural(images.length, "image") : "No image";
      told.textContent = text ? `${what} for ${text}, asked at ${moment(Date.now(), Date.now())}.` : `${images.length ? `The newest ${what}` : what}, asked at ${moment(Date.now(), Date.now())}.`;
    } catch (error) {
      if (mine !== asked) return;
      search.failed = !error.status; // what was refused is refused again
      told.textContent = `Not found out: ${error.message}${body.childNodes.length ? " What is shown is from before." : ""}`;
      onTrouble(error);
    }
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  return search;
}
