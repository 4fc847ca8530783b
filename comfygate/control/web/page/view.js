// What a snapshot looks like. Every text goes in as text: names and errors are anybody's.
"use strict";

const LOOKS = ["failed", "down", "starting", "full", "busy", "idle", "stopping", "stopped", "unknown"]; // most urgent first
const PROBLEMS = new Set(["failed", "down"]);
const SVG = "http://www.w3.org/2000/svg";

/** How a GPU is shown: its state, or its load where it is ready. */
function lookOf(gpu) {
  const look = gpu.state === "ready" ? (gpu.load ?? "idle") : gpu.state;
  return LOOKS.includes(look) ? look : "unknown";
}

const byId = (id) => document.getElementById(id);

function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function makeIcon() {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("class", "icon");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.ariaHidden = "true";
  icon.append(document.createElementNS(SVG, "use"));
  return icon;
}

const setIcon = (icon, look) => icon.firstChild.setAttribute("href", `#s-${look}`);

/** Change a text only where it differs: selections and screen readers are left alone. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A text that may be cut off: it can be read whole as the title. */
function sayTitled(node, text) {
  say(node, text);
  node.title = text;
}

const shortened = (id) => String(id).slice(0, 8);

/** Show or hide; returns whether it is shown. */
function show(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
  return shown;
}

/** Show `items` as children of `parent`, keeping what is there. */
function match(parent, items, Kind, ...context) {
  const rows = (parent.shown ??= []);
  while (rows.length > items.length) rows.pop().node.remove();
  items.forEach((item, n) => {
    if (!rows[n]) parent.append((rows[n] = new Kind()).node);
    rows[n].show(item, ...context);
  });
}

/** A label, a bar and a value. */
class Gauge {
  constructor() {
    this.label = make("span", "label");
    this.fill = make("span");
    this.bar = make("span", "bar", this.fill);
    this.bar.role = "meter";
    this.value = make("span", "value");
    this.node = make("p", "gauge", this.label, this.bar, this.value);
  }

  /** `share` 0..1, or null where there is no whole. */
  show(label, share, text) {
    say(this.label, label);
    say(this.value, text);
    if (!show(this.bar, share !== null)) return;
    const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
    this.fill.style.width = `${percent}%`;
    Object.assign(this.bar, { ariaLabel: label, ariaValueNow: percent, ariaValueText: text });
  }
}

/** How far something is. */
class Progress {
  constructor(className) {
    this.bar = make("progress", className);
    this.value = make("span", "value");
    this.node = make("p", "progress", this.bar, this.value);
  }

  show(label, value, max, text) {
    const known = value != null && max > 0;
    this.node.style.visibility = known ? "" : "hidden"; // keeps its place
    if (!known) return;
    Object.assign(this.bar, { max, value, ariaLabel: label });
    say(this.value, text);
  }
}

/** The prompt that runs. */
class JobView {
  constructor() {
    this.what = make("strong", "what");
    this.time = make("span", "value");
    this.nodes = new Progress("all");
    this.step = new Progress();
    this.id = make("p", "id soft");
    this.node = make("div", "job", make("p", "line", this.what, this.time), this.id, this.nodes.node, this.step.node);
  }

  show({ prompt_id, client_id, since, node, node_type, value, max, nodes_done: done, nodes_total: total }, format) {
    this.since = since;
    sayTitled(this.what, node_type ?? (node ? format.text("nodeNow", { node }) : format.text("works")));
    const of = { used: format.step(value ?? 0), total: format.step(max ?? 0) };
    this.nodes.show(format.text("progressOfJob"), done, total, format.text("nodeOf", { done, total }));
    this.step.show(format.text("progressOfNode"), value, max, format.text("of", of));
    say(this.id, format.text("job", { id: shortened(prompt_id) }));
    this.id.title = [prompt_id, client_id].filter(Boolean).join("\n");
  }

  tick(now, format) {
    say(this.time, this.since == null ? "" : format.duration(now - this.since));
  }
}

/** A row of names and numbers. */
class Facts {
  constructor(className) {
    this.node = make("dl", className);
    this.entries = [];
  }

  /** `counts`: numbers by label. */
  count(counts, format) {
    const facts = Object.entries(counts).map(([key, count]) => [format.text(key), format.number(count ?? 0)]);
    while (this.entries.length > facts.length) this.entries.pop().parentNode.remove();
    facts.forEach(([label, text], n) => {
      if (!this.entries[n]) {
        this.entries[n] = make("dd");
        this.node.append(make("div", "", make("dt"), this.entries[n]));
      }
      say(this.entries[n].previousSibling, label);
      say(this.entries[n], text);
    });
  }
}

/** One GPU. */
class Card {
  constructor() {
    this.icon = makeIcon();
    this.id = make("span");
    this.look = make("span", "look");
    this.name = make("p", "name soft");
    this.port = make("a", "port");
    this.counts = new Facts("counts");
    this.job = new JobView();
    this.time = make("span");
    this.advice = make("span");
    this.hint = make("p", "hint soft", this.time, " ", this.advice);
    this.error = make("p", "error");
    this.error.tabIndex = 0; // it scrolls
    this.gauges = [new Gauge(), new Gauge(), new Gauge()];
    this.facts = new Facts("facts soft");
    this.summary = make("summary");
    this.past = make("p", "error");
    this.details = make("details", "", this.summary, this.past);
    const title = make("div", "line", make("h3", "", this.id, " ", this.look), this.port);
    const head = make("div", "head", make("span", "tile", this.icon), make("div", "who", title, this.name));
    const gauges = make("div", "gauges", ...this.gauges.map((gauge) => gauge.node));
    this.node = make("li", "gpu", head, this.counts.node, this.job.node, this.hint, this.error, gauges);
    this.node.append(this.facts.node, this.details);
  }

  show(gpu, format, host) {
    const look = lookOf(gpu), ready = gpu.state === "ready";
    this.gpu = gpu;
    this.node.dataset.look = look;
    setIcon(this.icon, look);
    say(this.id, format.text("gpu", { id: gpu.gpu_id }));
    say(this.look, look === "unknown" ? String(gpu.state) : format.text(look));
    sayTitled(this.name, gpu.owned === false ? `${gpu.name} (${format.text("remote")})` : String(gpu.name));
    this.look.title = format.text(`${look}Hint`);
    showPort(this.port, gpu.port, host);
    this.port.ariaLabel = format.text("open", { id: gpu.gpu_id, port: gpu.port });
    this.counts.count({ running: gpu.running_count, pending: gpu.pending_count }, format);
    const { done, failed: jobsFailed, cancelled, restarts } = gpu;
    this.facts.count({ done, jobsFailed, cancelled, ...(restarts && { restarts }) }, format);
    if (show(this.job.node, ready && gpu.job)) this.job.show(gpu.job, format);
    if (show(this.hint, !ready || look === "idle")) say(this.advice, format.text(`${look}Hint`));
    if (show(this.error, !ready && gpu.last_error)) say(this.error, gpu.last_error);
    if (show(this.details, ready && gpu.last_error)) say(this.past, gpu.last_error);
    say(this.summary, format.text("lastError"));
    this._showGauges(gpu, format);
  }

  _showGauges(gpu, format) {
    const shown = [];
    if (gpu.memory) {
      const { used, total } = gpu.memory;
      const text = format.text("of", { used: format.size(used, total, false), total: format.size(total) });
      shown.push([format.text("memory"), total ? used / total : 0, text]);
    } else if (gpu.process_memory != null) {
      shown.push([format.text("process"), null, format.size(gpu.process_memory)]);
    }
    if (gpu.utilisation != null) shown.push([format.text("utilisation"), gpu.utilisation, format.percent(gpu.utilisation)]);
    if (gpu.temperature != null) shown.push([format.text("temperature"), null, `${format.number(gpu.temperature)} °C`]);
    this.gauges.forEach((gauge, n) => show(gauge.node, shown[n]) && gauge.show(...shown[n]));
  }

  tick(now, format) {
    const { since, state } = this.gpu;
    const said = since != null && state !== "ready";
    say(this.time, said ? format.text("forTime", { duration: format.duration(now - since) }) : "");
    this.job.tick(now, format);
  }
}

/** One port, as a row. */
class GateRow {
  constructor() {
    this.name = make("span");
    this.port = make("a", "port");
    this.gpus = make("span", "soft");
    this.numbers = [make("td"), make("td"), make("td")];
    const title = make("th", "", this.port, " ", this.name, " ", this.gpus);
    title.scope = "row";
    this.node = make("tr", "", title, ...this.numbers);
  }

  show(gate, format, host) {
    say(this.name, String(gate.name));
    say(this.gpus, gate.gpus.length > 1 ? format.text("gpu", { id: format.ids(gate.gpus) }) : "");
    showPort(this.port, gate.port, host);
    const counts = [gate.websocket_clients, gate.requests, gate.refused];
    counts.forEach((count, n) => say(this.numbers[n], count == null ? "–" : format.number(count)));
    this.numbers[2].classList.toggle("some", gate.refused > 0);
  }
}

/** One thing that went wrong. */
class ErrorRow {
  constructor() {
    this.time = make("time");
    this.where = make("span");
    this.message = make("span", "message");
    this.node = make("li", "", make("p", "soft", this.time, " ", this.where), this.message);
  }

  show(error, format) {
    this.time.dateTime = new Date(1000 * error.time).toISOString();
    say(this.time, format.moment(1000 * error.time));
    let where = error.gpu_id == null ? "" : ` · ${format.text("gpu", { id: error.gpu_id })}`;
    if (error.prompt_id) where += ` · ${format.text("job", { id: shortened(error.prompt_id) })}`;
    say(this.where, where);
    this.where.title = error.prompt_id ?? "";
    say(this.message, String(error.message));
  }
}

/** How many GPUs have one look. */
class Chip {
  constructor() {
    this.icon = makeIcon();
    this.text = make("span");
    this.node = make("li", "", this.icon, this.text);
  }

  show([look, count], format) {
    this.node.dataset.look = look;
    this.node.title = format.text(`${look}Hint`);
    setIcon(this.icon, look);
    say(this.text, `${format.number(count)} ${format.text(look)}`);
  }
}

function showPort(link, port, host) {
  link.href = `http://${host}:${Number(port)}/`;
  say(link, `:${Number(port)}`);
}

/** The whole page below its top. */
class View {
  /** `host`: by which the ports are reached. */
  constructor(host) {
    this.host = host;
    this.totals = new Facts("");
    this.totals.node = byId("totals");
    for (const id of ["headline", "looks", "gpus", "gates", "errors", "about"]) this[id] = byId(id);
  }

  show(snapshot, format) {
    const { gpus, totals, gates = [], errors = [] } = snapshot;
    this.snapshot = snapshot;
    this._showSummary(gpus, totals, format);
    match(this.gpus, gpus, Card, format, this.host);
    const ports = gates.toSorted((a, b) => b.gpus.length - a.gpus.length);
    match(this.gates, ports, GateRow, format, this.host);
    match(this.errors, errors, ErrorRow, format);
    show(this.errors, errors.length);
    show(byId("no-errors"), !errors.length);
  }

  _showSummary(gpus, totals, format) {
    const ready = gpus.filter((gpu) => gpu.state === "ready").length;
    const key = ready === 0 ? "noneReady" : ready === gpus.length ? "allReady" : "someReady";
    say(this.headline, format.text(key, { ready, gpus: gpus.length }, gpus.length));
    const counts = LOOKS.map((look) => [look, gpus.filter((gpu) => lookOf(gpu) === look).length]);
    match(this.looks, counts.filter(([, count]) => count), Chip, format);
    const { running, pending, done, failed: jobsFailed, cancelled } = totals;
    this.totals.count({ running, pending, done, jobsFailed, cancelled }, format);
  }

  /** Bring durations up to `now` (Unix seconds of the gate's clock). */
  tick(now, format) {
    for (const card of this.gpus.shown) card.tick(now, format);
    const { version, started } = this.snapshot;
    const duration = format.duration(now - started);
    say(this.about, format.text("about", { version, time: format.moment(1000 * started), duration }));
  }
}
