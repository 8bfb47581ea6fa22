// The body of a function: twelve zones of a world on one map of the width given; names that cover each other, or stick out.
const [width] = arguments;
const panels = await import("./panels.js");
const places = { ams: [0, 0], fra: [3, 1], lon: [-3, 0], par: [0, 3], iad: [-40, 2], ord: [-47, -1], sfo: [-70, 4],
  sin: [80, 30], nrt: [95, 5], syd: [110, 60], gru: [-45, 70], jnb: [20, 75] };
const names = Object.keys(places), apart = (a, b) => 2 * Math.hypot(places[a][0] - places[b][0], places[a][1] - places[b][1]) + 0.3;
const table = (value) => Object.fromEntries(names.map((a) => [a, Object.fromEntries(names.map((b) => [b, value(a, b)]))]));
const state = (zone) => ({ gru: "dead", syd: "suspect" })[zone] ?? "alive";
const nodes = names.map((zone) => ({ zone, node_id: zone, state: state(zone), since_s: 240, me: zone === "ams", registry: zone === "fra", voter: true }));
const sees = table((a, b) => (a === "nrt" && b === "jnb" ? "relayed" : state(b)));
const survey = { nodes: nodes.map((one) => ({ ...one, answered: true, sees: sees[one.zone] })), round_trips_ms: table(apart) };
const map = panels.map(width, nodes, survey);
document.body.append(map);
const boxes = [...map.querySelectorAll(".name, .note")].map((one) => ({ text: one.textContent, box: one.getBBox() }));
const covers = ({ box: a }, { box: b }) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 2 && Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 4;
const found = {
  names: map.querySelectorAll(".name").length,
  covered: boxes.flatMap((one, n) => boxes.slice(n + 1).filter((other) => covers(one, other)).map((other) => `${one.text} and ${other.text}`)),
  out: boxes.filter(({ box }) => box.x < -2 || box.x + box.width > width + 2 || box.y < -2 || box.y + box.height > map.viewBox.baseVal.height + 2).map((one) => one.text),
  partly: map.querySelectorAll(".link.partly").length,
  away: map.querySelectorAll(".place.away").length,
};
map.remove();
return found;
