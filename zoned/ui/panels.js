// The sections of the page, each made of what the node said.

import { h, s } from "./dom.js";
import * as figures from "./figures.js";
import { isUp } from "./judge.js";
import { bytes, clock, count, moment, plural, rate, span } from "./words.js";

const ICONS = { ok: "✓", warn: "!", crit: "✕", unknown: "?" };
const SAYS = { ok: "well", warn: "warning", crit: "critical", unknown: "not known" };

export const cards = (list) => list.map((one) => h("article", { class: `card ${one.state}` },
  h("h2", {}, one.name),
  h("p", { class: "word" }, h("span", { class: "icon", role: "img", "aria-label": SAYS[one.state] }, ICONS[one.state]), ` ${one.word}`),
  h("p", {}, one.line),
  h("p", { class: "quiet number" }, one.more || "\u00a0"),
  h("a", { class: "json", href: one.json, "aria-label": `${one.name} as JSON` }, "JSON")));

export function findings(report) {
  if (!report.findings.length) return h("p", { class: "nothing" }, h("span", { class: "icon ok", "aria-hidden": "true" }, ICONS.ok), " Nothing is the matter.");
  return h("ul", {}, report.findings.map((one) => h("li", { class: one.muted_s === null ? one.severity : "muted" },
    h("p", {}, h("strong", { class: "severity" }, one.severity), " ", h("code", {}, one.code), " ", one.summary,
      one.muted_s !== null && h("span", { class: "quiet" }, ` (muted for ${span(one.muted_s)})`)),
    h("p", { class: "quiet" }, one.means),
    h("p", {}, h("strong", {}, "Do: "), one.do))));
}

// Zones, of one or more nodes each, as the map shows them.
function places(nodes) {
  return [...new Set(nodes.map((one) => one.zone))].map((name) => {
    const own = nodes.filter((one) => one.zone === name && one.state !== "left");
    const up = own.filter(isUp), sure = up.some((one) => one.state === "alive");
    const gone = own.length && !up.length;
    const doubted = up.length && !sure ? "doubted" : null;
    const note = doubted ?? (gone ? `away for ${span(Math.min(...own.map((one) => one.since_s)))}` : own.length > 1 ? `${up.length} of ${own.length} nodes` : !own.length ? "left" : own[0].registry ? "registry" : own[0].voter ? (own[0].witness ? "witness" : "voter") : "follows");
    return { name, state: sure ? "up" : up.length ? "doubt" : "away", registry: up.some((one) => one.registry), me: own.some((one) => one.me), note, calm: sure };
  });
}

const RANK = ["alive", "relayed", "suspect", "dead", "left", "unknown"];

// The best that any node of zone `a` believes of any node of zone `b`.
function best(survey, nodes, a, b) {
  const about = nodes.filter((one) => one.zone === b).map((one) => one.node_id);
  const words = survey.nodes.filter((row) => row.zone === a && row.sees).flatMap((row) => about.map((id) => row.sees[id] ?? "unknown"));
  return words.sort((one, other) => RANK.indexOf(one) - RANK.indexOf(other))[0] ?? "unknown";
}

export function map(width, nodes, survey) {
  const zones = places(nodes), links = [];
  zones.forEach((a, n) => zones.slice(n + 1).forEach((b) => {
    const there = survey ? best(survey, nodes, a.name, b.name) : "unknown", back = survey ? best(survey, nodes, b.name, a.name) : "unknown";
    const away = a.state === "away" || b.state === "away";
    const state = away ? "none" : there === "alive" && back === "alive" ? "both" : survey ? "partly" : "unasked";
    const known = [survey?.round_trips_ms?.[a.name]?.[b.name], survey?.round_trips_ms?.[b.name]?.[a.name]].filter((one) => one !== undefined);
    links.push({ a: a.name, b: b.name, state, ms: away || !known.length ? undefined : Math.min(...known) });
  }));
  return figures.map(width, zones, links, survey?.round_trips_ms);
}

const SIGNS = { alive: ["●", "sees it", "ok"], relayed: ["◐", "only through others", "warn"], suspect: ["◌", "doubts it", "warn"], dead: ["✕", "holds it for dead", "crit"], left: ["–", "it left", "quiet"], unknown: ["?", "does not know it", "quiet"] };

export function legend() {
  return h("ul", { class: "signs quiet" }, Object.values(SIGNS).map(([sign, words, state]) => h("li", {}, h("span", { class: `sign ${state}`, "aria-hidden": "true" }, sign), ` ${words}`)), h("li", {}, "number: entries behind"));
}

export function matrix(survey) {
  if (!survey) return h("p", { class: "quiet" }, "The zones are being asked.");
  const several = new Set(survey.nodes.map((one) => one.zone)).size < survey.nodes.length;
  const title = (one) => (several ? `${one.zone} ${one.node_id.slice(0, 4)}` : one.zone);
  return h("table", { class: "matrix" },
    h("caption", { class: "quiet" }, `Rows ask, columns are asked about; as of ${clock(survey.at)} UTC.`),
    h("thead", {}, h("tr", {}, h("td", {}), survey.nodes.map((one) => h("th", { scope: "col" }, title(one))))),
    h("tbody", {}, survey.nodes.map((row) => h("tr", {}, h("th", { scope: "row" }, title(row)), survey.nodes.map((about) => cell(row, about))))));
}

function cell(row, about) {
  if (row.node_id === about.node_id) return h("td", { class: "self" }, row.answered ? "·" : "no answer");
  if (!row.sees) return h("td", { class: "quiet" }, h("span", { role: "img", "aria-label": "did not answer" }, "?"));
  const [sign, words, state] = SIGNS[row.sees[about.node_id]] ?? SIGNS.unknown, lag = row.lag?.[about.node_id];
  return h("td", {}, h("span", { class: `sign ${state}`, role: "img", "aria-label": words }, sign), " ",
    lag === undefined ? "" : h("span", { class: lag ? "number behind" : "number quiet" }, lag ? `−${count(lag)}` : "0"));
}

export function zones(nodes) {
  const states = { alive: ["up", "ok"], suspect: ["doubtful", "warn"], dead: ["away", "crit"], left: ["left", "quiet"] };
  return h("table", {}, h("thead", {}, h("tr", {}, ["Zone", "State", "For", "Part", "Position", "Behind", "Answers at most", "Round trip", "Integers last", "Load", "Version"].map((one) => h("th", { scope: "col" }, one)))),
    h("tbody", {}, nodes.map((one) => {
      const [word, state] = states[one.state];
      const up = isUp(one); // of one that is away what it last said is shown only where it stays true
      const part = one.registry && up ? "registry" : one.witness ? "witness" : one.voter ? "voter" : "follows";
      const where = /^https?:\/\//.test(one.url ?? "") && !one.me ? h("a", { href: `${one.url}/ui/` }, one.zone) : one.zone;
      return h("tr", { class: up ? null : "gone" }, h("th", { scope: "row" }, where, one.me && " (here)"),
        h("td", { class: `state ${state}` }, h("span", { "aria-hidden": "true" }, `${ICONS[state] ?? "–"} `), one.draining ? `${word}, draining` : word),
        h("td", {}, span(one.since_s)), h("td", {}, part), h("td", {}, count(one.position)), h("td", {}, count(one.lag)),
        h("td", {}, !up || one.staleness_s === null ? "–" : `${span(one.staleness_s)} old`), h("td", {}, !up || one.rtt_ms === null ? "–" : `${one.rtt_ms < 10 ? one.rtt_ms.toFixed(1) : count(one.rtt_ms)} ms`),
        h("td", {}, !up || one.runway_days === null ? "–" : `${count(one.runway_days)} d`), h("td", {}, (up ? one.load : null) ?? "–"), h("td", {}, one.version ?? "–"));
    })));
}

export function elections(list, now) {
  if (!list.length) return h("p", { class: "quiet" }, "No registry was seen since this node started.");
  return h("ol", { class: "events", reversed: true }, list.slice(-6).reverse().map((one) => h("li", {},
    h("time", { datetime: one.at, class: "number" }, moment(one.at, now)), " ",
    one.node_id ? h("strong", {}, one.zone ?? one.node_id) : h("strong", { class: "state crit" }, "nobody"),
    one.node_id && one.term !== null && h("span", { class: "number quiet" }, ` term ${count(one.term)}`), `: ${one.why}`)));
}

export function gauges(width, { status, room }) {
  const { journal, ids } = status, days = ids.runway_days;
  const full = Math.max(journal.entries / room.journal_entries_max, journal.bytes / room.journal_bytes_max);
  const ends = journal.drain_ends_in_s ? `; empty in ${span(journal.drain_ends_in_s)} at ${rate(journal.drain_per_s)}/s` : "";
  const rows = [
    ["Journal", `${count(journal.entries)} of ${count(room.journal_entries_max)} writes, ${bytes(journal.bytes)} of ${bytes(room.journal_bytes_max)}${ends}`,
      { value: full, most: 1, marks: [0.5, 0.9], state: full > 0.9 ? "crit" : full > 0.5 ? "warn" : "ok" }],
    ["Integers", days === null ? `${count(ids.left)} left; how fast they go is not known yet` : `${count(ids.left)} left: ${count(days)} days at ${count(ids.rate_per_day)} a day`,
      { value: days ?? (ids.left ? 60 : 0), most: 60, marks: [7, 30], state: ids.left === 0 || (days !== null && days < 1) ? "crit" : days !== null && days < 7 ? "warn" : "ok" }],
    ["Disk", `${bytes(room.free_bytes)} free; the store has ${bytes(room.store_bytes)}; writes stop below ${bytes(room.free_min_bytes)}`,
      { value: room.free_bytes, most: Math.max(room.free_bytes, 4 * room.free_min_bytes), marks: [room.free_min_bytes], state: room.free_bytes < room.free_min_bytes ? "crit" : room.free_bytes < 2 * room.free_min_bytes ? "warn" : "ok" }],
  ];
  const facts = [["Position", count(status.catalogue.position)], ["Images", count(status.catalogue.images)], ["Hash", h("code", { title: status.catalogue.hash }, (status.catalogue.hash ?? "").slice(0, 12))],
    ["Conflicts", status.conflicts.open ? plural(status.conflicts.open, "open conflict") : "none open"], ["Kept for others", plural(journal.shared_entries, "write")]];
  return [rows.map(([name, words, figure]) => h("div", { class: "gauge" }, h("p", {}, h("strong", {}, name), " ", h("span", { class: "number" }, words)), figures.gauge(width, { ...figure, label: `${name}: ${words}` }))),
    h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "number" }, value))))];
}

export function charts(width, samples, now) {
  const times = samples.map((one) => Date.parse(one.at));
  const gaps = samples.flatMap((one, n) => (one.registry || n + 1 === samples.length ? [] : [[times[n], times[n + 1]]]));
  const line = (value) => samples.map((one, n) => [times[n], value(one, n)]);
  const growth = (value) => line((one, n) => (n && times[n] > times[n - 1] ? Math.max(0, value(one) - value(samples[n - 1])) / ((times[n] - times[n - 1]) / 1000) : null));
  const all = [
    { name: "Answers are at most", unit: " old", say: span, points: line((one) => one.staleness_s) },
    { name: "Writes waiting", unit: "", say: count, points: line((one) => one.waiting) },
    { name: "Lookups", unit: "/s", say: rate, points: growth((one) => one.lookups) },
    { name: "Registrations", unit: "/s", say: rate, points: growth((one) => one.committed + one.buffered) },
  ];
  return all.map((one) => h("div", { class: "chart" }, figures.chart(width, { ...one, gaps, now })));
}
