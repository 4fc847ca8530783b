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

function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function makeIcon() {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  icon.append(document.createElementNS(SVG, "use"));
  return icon;
}

function setIcon(icon, look) {
  icon.firstChild.setAttribute("href", `#s-${look}`);
}

/** Change a text only where it differs, so that selections and screen readers are left alone. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show or hide; returns whether it is shown. */
function show(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
  return shown;
}

/** Make the children of `parent` those of `items`, keeping what is there. */
function match(parent, items, Kind) {
  parent.shown ??= [];
  while (parent.shown.length > items.length) parent.shown.pop().node.remove();
  items.forEach((item, n) => {
    if (!parent.shown[n]) parent.append((parent.shown[n] = new Kind()).node);
  });
  return parent.shown;
}

/** A label, a bar and a value. */
class Gauge {
  constructor() {
    this.label = make("span", "label");
    this.fill = make("span");
    this.bar = make("span", "bar", this.fill);
    this.bar.setAttribute("role", "meter");
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
    this.bar.setAttribute("aria-label", label);
    this.bar.setAttribute("aria-valuenow", percent);
    this.bar.setAttribute("aria-valuetext", text);
  }
}

/** The prompt that runs. */
class JobView {
  constructor() {
    this.what = make("strong", "what");
    this.time = make("span", "value");
    this.node_ = make("progress", "step");
    this.step = make("span", "value");
    this.job = make("progress");
    this.nodes = make("span", "value");
    this.stepRow = make("p", "progress", this.node_, this.step);
    this.jobRow = make("p", "progress", this.job, this.nodes);
    this.id = make("p", "id soft");
    this.node = make("div", "job", make("p", "line", this.what, this.time), this.stepRow, this.jobRow, this.id);
  }

  show(job, format) {
    this.since = job.since;
    say(this.what, job.node_type ?? (job.node ? format.text("nodeNow", { node: job.node }) : format.text("works")));
    this.what.title = this.what.textContent;
    this._progress(this.stepRow, this.node_, job.value, job.max, format.text("progressOfNode"));
    this._progress(this.jobRow, this.job, job.nodes_done, job.nodes_total, format.text("progressOfJob"));
    const of = { used: format.step(job.value ?? 0), total: format.step(job.max ?? 0) };
    say(this.step, format.text("of", of));
    say(this.nodes, format.text("nodeOf", { done: job.nodes_done ?? 0, total: job.nodes_total ?? 0 }));
    say(this.id, format.text("job", { id: String(job.prompt_id).slice(0, 8) }));
    this.id.title = [job.prompt_id, job.client_id].filter(Boolean).join("\n");
  }

  _progress(row, bar, value, max, label) {
    if (!show(row, value != null && max > 0)) return;
    bar.max = max;
    bar.value = value;
    bar.setAttribute("aria-label", label);
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

  /** `facts`: pairs of a label and a text. */
  show(facts) {
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
    this.time = make("span", "time");
    this.advice = make("span");
    this.hint = make("p", "hint soft", this.time, " ", this.advice);
    this.error = make("p", "error");
    this.error.tabIndex = 0;
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
    say(this.name, gpu.owned === false ? `${gpu.name} (${format.text("remote")})` : String(gpu.name));
    this.name.title = this.name.textContent;
    this.look.title = format.text(`${look}Hint`);
    showPort(this.port, gpu.port, host);
    this.port.setAttribute("aria-label", format.text("open", { id: gpu.gpu_id, port: gpu.port }));
    this.counts.show([
      [format.text("running"), format.number(gpu.running_count ?? 0)],
      [format.text("pending"), format.number(gpu.pending_count ?? 0)],
    ]);
    if (show(this.job.node, ready && gpu.job)) this.job.show(gpu.job, format);
    if (show(this.hint, !ready || look === "idle")) say(this.advice, format.text(`${look}Hint`));
    if (show(this.error, !ready && gpu.last_error)) say(this.error, gpu.last_error);
    if (show(this.details, ready && gpu.last_error)) say(this.past, gpu.last_error);
    say(this.summary, format.text("lastError"));
    this._showGauges(gpu, format);
    this._showFacts(gpu, format);
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

  _showFacts(gpu, format) {
    const facts = [["done", gpu.done ?? 0], ["jobsFailed", gpu.failed ?? 0], ["cancelled", gpu.cancelled ?? 0]];
    if (gpu.restarts) facts.push(["restarts", gpu.restarts]);
    this.facts.show(facts.map(([key, count]) => [format.text(key), format.number(count)]));
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
    this.name = make("span", "gate-name");
    this.port = make("a", "port");
    this.gpus = make("span", "soft");
    this.numbers = [make("td"), make("td"), make("td")];
    const title = make("th", "", this.port, " ", this.name, " ", this.gpus);
    title.scope = "row";
    this.node = make("tr", "", title, ...this.numbers);
  }

  show(gate, format, host) {
    say(this.name, String(gate.name));
    say(this.gpus, format.text("gpuRange", { ids: format.ids(gate.gpus ?? []) }));
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
    this.where = make("span", "where");
    this.message = make("span", "message");
    this.node = make("li", "", make("p", "soft", this.time, " ", this.where), this.message);
  }

  show(error, format) {
    this.time.dateTime = new Date(1000 * error.time).toISOString();
    say(this.time, format.moment(1000 * error.time));
    const where = error.gpu_id == null ? [] : [format.text("gpu", { id: error.gpu_id })];
    if (error.prompt_id) where.push(format.text("job", { id: String(error.prompt_id).slice(0, 8) }));
    say(this.where, where.map((one) => ` · ${one}`).join(""));
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
    this.totals.node = document.getElementById("totals");
    for (const id of ["headline", "looks", "gpus", "gates", "errors", "about"]) this[id] = document.getElementById(id);
  }

  show(snapshot, format) {
    const { gpus, totals, gates = [], errors = [] } = snapshot;
    this.snapshot = snapshot;
    this._showSummary(gpus, totals, format);
    match(this.gpus, gpus, Card).forEach((card, n) => card.show(gpus[n], format, this.host));
    const ports = [...gates].sort((a, b) => (b.gpus?.length > 1) - (a.gpus?.length > 1));
    match(this.gates, ports, GateRow).forEach((row, n) => row.show(ports[n], format, this.host));
    match(this.errors, errors, ErrorRow).forEach((row, n) => row.show(errors[n], format));
    show(this.errors, errors.length);
    show(document.getElementById("no-errors"), !errors.length);
  }

  _showSummary(gpus, totals, format) {
    const ready = gpus.filter((gpu) => gpu.state === "ready").length;
    const key = ready === 0 ? "noneReady" : ready === gpus.length ? "allReady" : "someReady";
    say(this.headline, format.text(key, { ready, gpus: gpus.length }, gpus.length));
    const looks = gpus.map(lookOf);
    const counts = LOOKS.map((look) => [look, looks.filter((one) => one === look).length]).filter(([, count]) => count);
    match(this.looks, counts, Chip).forEach((chip, n) => chip.show(counts[n], format));
    const shown = [["running", totals.running], ["pending", totals.pending], ["done", totals.done],
      ["jobsFailed", totals.failed], ["cancelled", totals.cancelled]];
    this.totals.show(shown.map(([name, count]) => [format.text(name), format.number(count ?? 0)]));
  }

  /** Bring durations up to `now` (Unix seconds of the gate's clock). */
  tick(now, format) {
    for (const card of this.gpus.shown) card.tick(now, format);
    const { version, started } = this.snapshot;
    const duration = format.duration(now - started);
    say(this.about, format.text("about", { version, time: format.moment(1000 * started), duration }));
  }
}
