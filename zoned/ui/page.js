// The page: hears the node, shows what it said, and says so when it hears nothing.

import { open as openCatalogue } from "./catalogue.js";
import { show } from "./dom.js";
import { ask, Door, Feed, hasToken, setToken } from "./feed.js";
import * as figures from "./figures.js";
import * as judge from "./judge.js";
import * as panels from "./panels.js";
import { clock, span } from "./words.js";

const SURVEY_S = 10; // every node is asked: not more often, whoever looks
const RATE_MS = 10_000;

const $ = (id) => document.getElementById(id);
const body = (id) => $(id).querySelector(".body");
const state = { said: null, heardAt: 0, skewMs: 0, survey: null, surveyedAt: -Infinity, elections: [], count: -1, samples: [], recent: [], paused: false, trouble: null, tryAt: 0 };

function hear(said) {
  const first = state.said === null, news = standing(said) !== standing(state.said);
  if (search.failed) search();
  state.said = said;
  state.heardAt = performance.now();
  state.trouble = null;
  $("door").hidden = true;
  remember(said);
  draw();
  if (said.elections !== state.count) fetchElections(said.elections);
  if (news || performance.now() - state.surveyedAt > SURVEY_S * 1000) fetchSurvey(news && !first);
  if (first) { fetchTrend(); search(); }
}

const standing = (said) => said?.zones.map((one) => one.node_id + one.state).join() ?? "";

function remember(said) {
  const at = Date.parse(said.at);
  state.recent = [...state.recent.filter((one) => at - one.at <= RATE_MS && one.at < at), { at, ...said.served }];
  const last = state.samples.at(-1);
  if (!last || at - Date.parse(last.at) >= RATE_MS) {
    state.samples = [...state.samples.slice(-400), { at: said.at, ...said.served, staleness_s: said.status.staleness_s, waiting: said.status.journal.entries, registry: said.status.registry.known }];
  }
}

function rates() {
  const [first, last] = [state.recent[0], state.recent.at(-1)], seconds = (last.at - first.at) / 1000;
  if (seconds < 1) return null;
  return Object.fromEntries(["lookups", "committed", "buffered", "refused"].map((name) => [name, Math.max(0, last[name] - first[name]) / seconds]));
}

// What goes with the stream, asked by itself. What fails stays as it was, with its time, and is asked again.
async function fetchSurvey(anew) {
  state.surveyedAt = performance.now();
  try {
    const survey = await ask(`../zone/v1/reachability?max_age=${anew ? 1 : SURVEY_S}`);
    state.survey = { ...survey, at: Date.now() - survey.age_s * 1000 };
    draw();
  } catch { /* the matrix says of when it is */ }
}

async function fetchElections(counted) {
  state.count = counted;
  try {
    state.elections = (await ask("../zone/v1/registry")).elections;
    draw();
  } catch { state.count = -1; }
}

async function fetchTrend() {
  try {
    const { samples } = await ask("../zone/v1/trend");
    const until = samples.length ? Date.parse(samples.at(-1).at) : 0;
    state.samples = [...samples, ...state.samples.filter((one) => Date.parse(one.at) > until)];
    draw();
  } catch { /* it begins with this page then */ }
}

const widthOf = (element) => Math.max(240, Math.floor(element.clientWidth));

function draw() {
  const { said } = state;
  if (!said) return;
  const now = Date.parse(said.at), list = judge.verdicts(said, rates()), { node } = said.status;
  document.title = `${{ ok: "", warning: "! ", critical: "✕ " }[said.health.status]}${node.zone} | zoned`;
  show($("zone"), node.zone);
  show($("node"), `zoned ${node.version}, up ${span(node.uptime_s)}`);
  show($("sentence"), judge.sentence(list, said));
  show($("verdict"), panels.cards(list));
  show(body("findings"), panels.findings(said.health));
  show(body("map"), panels.map(widthOf(body("map")), said.zones, state.survey));
  show(body("matrix"), panels.matrix(state.survey));
  show($("matrix").querySelector(".legend"), panels.legend());
  show(body("zones"), panels.zones(said.zones));
  const figure = $("elections").querySelector(".figure");
  show(figure, figures.elections(widthOf(figure), state.elections, now - node.uptime_s * 1000, now));
  show(body("elections"), panels.elections(state.elections, now));
  show(body("gauges"), panels.gauges(widthOf(body("gauges")), said));
  const charts = body("trend");
  show(charts, panels.charts(charts.firstElementChild ? widthOf(charts.firstElementChild) : 300, state.samples, now));
  tell();
}

// How fresh all this is. The words change when the state does, not every second: they are read aloud.
function tell() {
  const { said, paused, trouble } = state;
  const feed = paused ? "paused" : trouble instanceof Door ? "closed" : trouble ? "stale" : said ? "live" : "waiting";
  document.body.dataset.feed = feed;
  const of = said ? `${clock(said.at)} UTC` : null;
  const words = {
    live: "", waiting: "Asking this node.",
    paused: of ? `Paused: what is shown is of ${of}.` : "Paused.",
    stale: of ? `No news from this node since ${of}: ${trouble?.message}. What is shown is of then; it is asked again by itself.` : `This node does not answer: ${trouble?.message}. It is asked again by itself.`,
    closed: of ? `This node wants to know who asks. What is shown is of ${of}.` : "This node wants to know who asks.",
  }[feed];
  if ($("news").textContent !== words) $("news").textContent = words;
  const ageS = said ? (performance.now() - state.heardAt) / 1000 : 0;
  const label = { live: `live, ${of}`, paused: `paused at ${of ?? "–"}`, stale: of ? `silent for ${span(ageS)}` : "no answer", closed: "closed", waiting: "not heard of yet" }[feed];
  if ($("when").textContent !== label) $("when").textContent = label;
}

function trouble(error) {
  state.trouble = error;
  if (error instanceof Door) {
    $("door").hidden = false;
    $("door-why").textContent = error.message;
    $("forget").hidden = true;
    $("token").focus();
  }
  tell();
}

const feed = new Feed(hear, trouble);
const search = openCatalogue($("catalogue"), () => [...new Set((state.said?.zones ?? []).map((one) => one.zone))], (error) => { if (error instanceof Door && !hasToken()) trouble(error); });

$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  $("pause").textContent = state.paused ? "Resume" : "Pause";
  if (state.paused) feed.stop(); else feed.start();
  tell();
});

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  $("forget").hidden = !hasToken();
  state.trouble = null;
  feed.stop();
  feed.start();
});

$("forget").addEventListener("click", () => { setToken(""); location.reload(); });

// A link cannot show a token: with one, JSON is fetched and shown here.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a.json");
  if (!link || !hasToken() || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const dialog = $("shown");
  dialog.querySelector("h2").textContent = new URL(link.href).pathname;
  try {
    dialog.querySelector("pre").textContent = JSON.stringify(await ask(link.getAttribute("href")), null, 2);
  } catch (error) {
    dialog.querySelector("pre").textContent = error.message;
  }
  dialog.showModal();
});

// A page that was left may be kept for "back"; its stream would keep one of the six connections that a browser allows.
addEventListener("pagehide", () => feed.stop());
addEventListener("pageshow", () => { if (!state.paused) feed.start(); });
addEventListener("resize", () => requestAnimationFrame(draw));
setInterval(tell, 1000);
