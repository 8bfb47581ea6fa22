// Plots as SVG, drawn for the width that there is, so that text keeps its size. Each says in words what it shows.

import { s } from "./dom.js";
import { minute, span } from "./words.js";

const HOUR_MS = 3_600_000;

function svg(width, height, label, ...children) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, ...children);
}

const text = (x, y, words, attributes = {}) => s("text", { x, y, ...attributes }, words);

// Places on a plane whose distances are like the round trips: stress majorization from a circle. Pure.
export function layout(names, roundTrips) {
  const n = names.length;
  const places = names.map((_, k) => {
    const angle = n === 2 ? Math.PI * (1 - k) : (2 * Math.PI * k) / n - Math.PI / 2;
    return n === 1 ? [0, 0] : [Math.cos(angle), Math.sin(angle)];
  });
  // Compressed: one zone overseas must not squeeze all others into a point. Below 20 ms nobody cares.
  const wanted = names.map((a) => names.map((b) => {
    const known = [roundTrips?.[a]?.[b], roundTrips?.[b]?.[a]].filter((one) => one !== undefined);
    return known.length ? Math.sqrt(Math.max(20, Math.min(...known))) : null;
  }));
  const known = wanted.flatMap((row, a) => row.filter((one, b) => a !== b && one !== null));
  if (n < 3 || !known.length) return places;
  const middle = known.reduce((sum, one) => sum + one, 0) / known.length;
  for (let round = 0; round < 60; round++) {
    const before = places.map((one) => [...one]);
    for (let a = 0; a < n; a++) {
      let [x, y] = [0, 0];
      for (let b = 0; b < n; b++) {
        if (a === b) continue;
        const [dx, dy] = [before[a][0] - before[b][0], before[a][1] - before[b][1]];
        const far = Math.hypot(dx, dy) || 1e-6, goal = (wanted[a][b] ?? middle) / middle * 1.4;
        x += before[b][0] + (dx / far) * goal;
        y += before[b][1] + (dy / far) * goal;
      }
      places[a] = [x / (n - 1), y / (n - 1)];
    }
  }
  return places;
}

// Moves places apart until none covers another's name, within the frame. Changes `places`. Pure otherwise.
function apart(places, width, height, [x0, y0]) {
  const [wide, high] = [76, 58];
  for (let round = 0; round < 200; round++) {
    let moved = false;
    for (let a = 0; a < places.length; a++) {
      for (let b = a + 1; b < places.length; b++) {
        const [dx, dy] = [places[b][0] - places[a][0], places[b][1] - places[a][1]];
        const [ox, oy] = [wide - Math.abs(dx), high - Math.abs(dy)];
        if (ox <= 0.5 || oy <= 0.5) continue;
        const axis = ox / wide < oy / high ? 0 : 1, push = (axis ? oy : ox) / 2 * ((axis ? dy : dx) < 0 ? -1 : 1);
        places[a][axis] -= push;
        places[b][axis] += push;
        moved = true;
      }
    }
    for (const place of places) {
      place[0] = Math.min(width - x0, Math.max(x0, place[0]));
      place[1] = Math.min(height - y0, Math.max(y0, place[1]));
    }
    if (!moved) return;
  }
}

// `zones`: { name, state, registry, me, note, calm }; `links`: { a, b, state: both | partly | none }.
export function map(width, zones, links, roundTrips) {
  const few = zones.length <= 6;
  const height = zones.length === 1 ? 120 : few ? Math.max(220, Math.min(290, width * 0.6)) : Math.max(300, Math.min(440, zones.length * 36));
  const raw = layout(zones.map((one) => one.name), roundTrips), margin = [Math.min(90, width * 0.18), 60];
  const fit = (axis, size) => {
    const all = raw.map((one) => one[axis]), low = Math.min(...all), high = Math.max(...all);
    return (value) => (high - low < 1e-6 ? size / 2 : margin[axis] + ((value - low) / (high - low)) * (size - 2 * margin[axis]));
  };
  const [fitX, fitY] = [fit(0, width), fit(1, height)], places = raw.map(([x, y]) => [fitX(x), fitY(y)]);
  apart(places, width, height, margin);
  const at = Object.fromEntries(zones.map((one, n) => [one.name, places[n]]));
  const label = `Map of zones: ${zones.map((one) => `${one.name} ${one.note}`).join("; ")}`;
  return svg(width, height, label,
    links.map(({ a, b, state, ms }) => {
      const [[ax, ay], [bx, by]] = [at[a], at[b]];
      return s("g", { class: `link ${state}${few ? "" : " many"}` }, s("line", { x1: ax, y1: ay, x2: bx, y2: by }),
        ms !== undefined && few && text((ax + bx) / 2, (ay + by) / 2 - 6, `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`, { "text-anchor": "middle" }));
    }),
    zones.map((one) => {
      const [x, y] = at[one.name], above = y < height / 2; // the name goes outside, where no link runs
      return s("g", { class: `place ${one.state}${one.registry ? " registry" : ""}` },
        one.registry && s("circle", { cx: x, cy: y, r: 21, class: "ring" }),
        s("circle", { cx: x, cy: y, r: 14, class: "spot" }),
        text(x, y + 5, one.state === "up" ? (one.registry ? "★" : "✓") : one.state === "doubt" ? "?" : "✕", { class: "mark", "text-anchor": "middle" }),
        text(x, above ? y - (few || !one.calm ? 42 : 27) : y + 37, one.me ? `${one.name} (here)` : one.name, { class: "name", "text-anchor": "middle" }),
        (few || !one.calm) && text(x, above ? y - 27 : y + 52, one.note, { class: "note", "text-anchor": "middle" }));
    }));
}

function ticks(from, to, width) {
  const steps = [60, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400].map((one) => one * 1000);
  const step = steps.find((one) => (to - from) / one <= Math.max(2, width / 90)) ?? steps.at(-1);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

// Who was the registry from when to when: a lane for each zone that was, one for nobody. What was before the first is
// not known, unless none was ever heard of.
export function elections(width, list, startedAt, now) {
  const from = Math.max(startedAt, now - 24 * HOUR_MS), left = Math.min(110, width * 0.25), right = 8;
  const x = (at) => left + ((Math.max(at, from) - from) / Math.max(1, now - from)) * (width - left - right);
  const spans = (list.length ? list : [{ at: startedAt, zone: null, node_id: null }]).map((one, n, all) => ({ ...one, at: typeof one.at === "string" ? Date.parse(one.at) : one.at, until: n + 1 < all.length ? Date.parse(all[n + 1].at) : now })).filter((one) => one.until >= from);
  const lanes = [...new Set(spans.filter((one) => one.node_id).map((one) => one.zone ?? one.node_id))].sort();
  if (spans.some((one) => !one.node_id)) lanes.push("nobody");
  const height = lanes.length * 26 + 26;
  const nobody = spans.filter((one) => !one.node_id).reduce((sum, one) => sum + one.until - Math.max(one.at, from), 0);
  const label = `The registry over time: ${list.length} changes since ${minute(startedAt)} UTC; nobody was the registry for ${span(nobody / 1000)}`;
  return svg(width, height, label,
    lanes.map((lane, n) => s("g", {}, s("line", { class: "lane", x1: left, x2: width - right, y1: n * 26 + 14, y2: n * 26 + 14 }), text(left - 8, n * 26 + 18, lane, { "text-anchor": "end", class: lane === "nobody" ? "note" : "name" }))),
    spans.map((one) => {
      const n = lanes.indexOf(one.node_id ? one.zone ?? one.node_id : "nobody"), start = x(one.at);
      return s("rect", { class: one.node_id ? "held" : "gap", x: start, y: n * 26 + 6, width: Math.max(2, x(one.until) - start), height: 16, rx: 3 });
    }),
    ticks(from, now, width - left).map((at) => s("g", { class: "tick" }, s("line", { x1: x(at), x2: x(at), y1: 2, y2: height - 20 }), text(x(at), height - 6, minute(at), { "text-anchor": "middle" }))));
}

// `points`: [time, value or null]; `gaps`: [from, to] times without a registry.
export function chart(width, { name, points, gaps, now, unit, say }) {
  const height = 108, left = 6, right = 6, top = 30, bottom = 20;
  const from = Math.max(now - HOUR_MS, Math.min(points[0]?.[0] ?? now, now - HOUR_MS / 12));
  const x = (at) => left + ((at - from) / (now - from)) * (width - left - right);
  const shown = points.filter(([at]) => at >= from), values = shown.map((one) => one[1]).filter((one) => one !== null);
  const most = Math.max(...values, 0), scale = most || 1, y = (value) => height - bottom - (value / scale) * (height - top - bottom);
  const runs = [[]];
  for (const [at, value] of shown) {
    if (value === null) { if (runs.at(-1).length) runs.push([]); } else runs.at(-1).push([x(at), y(value)]);
  }
  const newest = values.length ? say(values.at(-1)) : "–";
  return svg(width, height, `${name}: now ${newest}${unit}, at most ${say(most)}${unit} since ${minute(from)} UTC`,
    gaps.filter(([, until]) => until >= from).map(([since, until]) => s("rect", { class: "without", x: x(Math.max(since, from)), y: top - 4, width: Math.max(1, x(Math.min(until, now)) - x(Math.max(since, from))), height: height - top - bottom + 4 })),
    s("line", { class: "lane", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    runs.filter((one) => one.length).map((run) => {
      const line = run.map(([px, py], n) => `${n ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      return [s("path", { class: "area", d: `${line}L${run.at(-1)[0].toFixed(1)} ${height - bottom}L${run[0][0].toFixed(1)} ${height - bottom}Z` }), s("path", { class: "line", d: line })];
    }),
    text(left, 15, name, { class: "name" }),
    text(width - right, 15, `${newest}${unit}`, { class: "now", "text-anchor": "end" }),
    text(left, height - 5, minute(from), { class: "note" }),
    text(width - right, height - 5, "now", { class: "note", "text-anchor": "end" }),
    text(width / 2, height - 5, `at most ${say(most)}${unit}`, { class: "note", "text-anchor": "middle" }));
}

// A bar from 0 to `most`, with marks; `state` colours what is filled.
export function gauge(width, { value, most, marks = [], state, label }) {
  const part = most > 0 ? Math.min(1, value / most) : 0;
  return svg(width, 18, label,
    s("rect", { class: "trough", x: 0.5, y: 4.5, width: width - 1, height: 9, rx: 4.5 }),
    part > 0 && s("rect", { class: `fill ${state}`, x: 0.5, y: 4.5, width: Math.max(9, part * (width - 1)), height: 9, rx: 4.5 }),
    marks.map((mark) => s("line", { class: "mark", x1: (mark / most) * width, x2: (mark / most) * width, y1: 1, y2: 17 })));
}
