// What the figures mean for whoever is on call: four verdicts and a sentence. Pure.
// A verdict: { name, state: ok | warn | crit | unknown, word, line, more, json }.

import { bytes, count, plural, rate, span } from "./words.js";

const STALE_S = 30; // as zoned/health.py has it

export function verdicts(said, rates) {
  return [builds(said, rates), backups(said, rates), registry(said), zones(said)];
}

function builds({ status, health }, rates) {
  const name = "Builds", json = "../zone/v1/status";
  const more = rates ? `${rate(rates.lookups)} lookups/s` : "";
  if (status.node.url === null) return { name, json, state: "unknown", word: "Served elsewhere", line: "this node is a witness: it votes and answers no lookups", more: "" };
  if (status.catalogue.position === 0) {
    const part = status.snapshot?.bytes ? `, ${bytes(status.snapshot.bytes)} so far` : "";
    return { name, json, state: "crit", word: "Wait", line: `the catalogue is not here yet${part}: unknown images are answered 503`, more };
  }
  const bound = status.staleness_s;
  const stale = bound === null || bound > STALE_S;
  const line = bound === null ? "answered here; how old answers are cannot be proved now" : `answered here, at most ${span(bound)} old`;
  const drain = status.node.draining || health.findings.some((one) => one.code === "DRILL");
  return { name, json, state: stale || drain ? "warn" : "ok", word: "Go on", line, more: status.node.draining ? `draining; ${more}` : more };
}

function backups({ status, room }, rates) {
  const name = "Backups", json = "../zone/v1/writes", journal = status.journal;
  const waiting = journal.entries ? `${plural(journal.entries, "write")} waiting, the oldest ${span(journal.oldest_age_s)}` : "";
  const more = rates ? `${rate(rates.committed + rates.buffered)} writes/s${rates.refused ? `, ${rate(rates.refused)} refused/s` : ""}` : "";
  if (journal.entries >= room.journal_entries_max || journal.bytes >= room.journal_bytes_max) return { name, json, state: "crit", word: "Refused", line: "the journal is full: registrations are answered 507", more: waiting };
  if (room.free_bytes < room.free_min_bytes) return { name, json, state: "crit", word: "Refused", line: `the disk is full, ${bytes(room.free_bytes)} are free: registrations are answered 507`, more: waiting };
  if (!status.registry.known) return { name, json, state: "warn", word: "Go on, buffered", line: "registrations are kept in this node's journal and go out by themselves", more: waiting || more };
  if (journal.held_from !== null) return { name, json, state: "warn", word: "Go on, held back", line: `an operator holds the journal from write ${journal.held_from} on`, more: waiting };
  if (status.ids.left === 0 && status.catalogue.position > 0) return { name, json, state: "warn", word: "Go on, unnumbered", line: "no integers are left here: records get theirs later", more: waiting || more };
  if (journal.oldest_age_s > STALE_S) return { name, json, state: "warn", word: "Go on, slowly", line: "registrations are kept and committed late", more: waiting };
  return { name, json, state: "ok", word: "Go on", line: "registrations are committed", more: waiting || more };
}

function registry({ status, registry: newest, at }) {
  const name = "Registry", json = "../zone/v1/registry", now = status.registry;
  const since = newest ? (Date.parse(at) - Date.parse(newest.at)) / 1000 : status.node.uptime_s;
  const voters = plural(now.voters.length, "voter");
  if (!now.known) return { name, json, state: "crit", word: "None", line: `nobody orders writes for ${span(since)}${newest ? `: ${newest.why}` : ""}`, more: voters };
  return { name, json, state: "ok", word: now.zone ?? "known", line: `${now.role === "registry" ? "this node, " : ""}for ${span(since)}${now.term ? `, term ${count(now.term)}` : ""}`, more: `${voters}; this node: ${now.role}` };
}

export const isUp = (node) => node.state === "alive" || node.state === "suspect";

function zones({ zones: nodes }) {
  const name = "Zones", json = "../zone/v1/zones";
  const known = nodes.filter((one) => one.state !== "left");
  const away = known.filter((one) => !isUp(one)), doubted = known.filter((one) => one.state === "suspect");
  const word = `${known.length - away.length} of ${known.length} up`;
  const list = (some) => some.slice(0, 3).map((one) => `${one.zone} for ${span(one.since_s)}`).join(", ") + (some.length > 3 ? ` and ${some.length - 3} more` : "");
  const behind = Math.max(0, ...known.filter(isUp).map((one) => one.lag ?? 0));
  const more = known.filter(isUp).length < 2 ? "" : behind ? `at most ${plural(behind, "entry", "entries")} behind` : "all at one position";
  if (away.length) return { name, json, state: away.length * 2 >= known.length ? "crit" : "warn", word, line: `away: ${list(away)}`, more };
  if (doubted.length) return { name, json, state: "warn", word, line: `doubtful: ${list(doubted)}`, more };
  return { name, json, state: "ok", word, line: known.length === 1 ? "this is the only node" : "all answer", more };
}

export function sentence(list, said) {
  const [build, backup, reg, zone] = list;
  const away = said.zones.filter((one) => !isUp(one) && one.state !== "left").map((one) => one.zone);
  const parts = [`Builds: ${build.word.toLowerCase()}.`, `Backups: ${backup.word.toLowerCase()}.`];
  parts.push(reg.state === "crit" ? "No registry." : `Registry: ${reg.word}.`);
  parts.push(away.length ? `Away: ${away.join(", ")}.` : `${zone.word}.`);
  return parts.join(" ");
}
