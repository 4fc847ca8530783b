// Which gate the page reads, in which language, and what becomes of snapshots.
"use strict";

const CHOSEN = "comfygate-language";
const DEFAULT_HUB = "http://localhost:8188"; // of a page opened from a file
const FAVICONS = { idle: "#64748b", busy: "#0f766e", failed: "#b91c1c", lost: "#57534e" };

/** What goes on between the gate and the reader. */
class Page {
  constructor(hub) {
    this.hub = hub;
    this.elsewhere = hub.origin !== location.origin;
    this.view = new View(hub.hostname);
    this.format = chooseLanguage(remembered(), navigator.languages ?? [navigator.language]);
    this.live = new Live(`${hub}events`, (snapshot) => this.received(snapshot), (...link) => this.linked(...link));
    for (const name of ["status", "metrics"]) byId(`to-${name}`).href = hub + name;
    byId("language").onclick = () => this.speak(this.other);
    if (this.elsewhere) say(byId("hub"), hub.host);
    this.link = "connecting";
    this.said = new Map(); // gpu_id → state, so that changes are announced
  }

  start() {
    this.showTexts();
    this.live.open();
    setInterval(() => this.tick(), 1000);
  }

  speak(language) {
    remember(language);
    this.format = chooseLanguage(language, navigator.languages ?? []);
    this.showTexts();
    if (this.snapshot) this.showSnapshot();
  }

  received(snapshot) {
    this.ahead = snapshot.time - Date.now() / 1000; // the gate's clock may differ from ours
    this.snapshot = snapshot;
    this.showSnapshot();
    show(byId("content"), true);
    this.announceStates(snapshot.gpus);
  }

  linked(link, since) {
    const back = this.link === "lost";
    Object.assign(this, { link, since });
    this.showLink();
    if (link === "lost") this.announce(byId("lost-title").textContent);
    else if (back) this.announce(this.text("back"));
  }

  announceStates(gpus) {
    const changed = gpus.filter((gpu) => this.said.size && this.said.get(gpu.gpu_id) !== gpu.state);
    this.said = new Map(gpus.map((gpu) => [gpu.gpu_id, gpu.state]));
    const words = changed.map((gpu) => this.text("gpuState", { id: gpu.gpu_id, state: this.text(lookOf(gpu)) }));
    if (words.length) this.announce(words.join(", "));
  }

  get other() {
    return this.format.language === "zh" ? "en" : "zh";
  }

  text(...asked) {
    return this.format.text(...asked);
  }

  announce(text) {
    say(byId("announcement"), text);
  }

  showTexts() {
    document.documentElement.lang = this.format.language === "zh" ? this.format.locale : "en";
    for (const node of document.querySelectorAll("[data-text]")) say(node, this.text(node.dataset.text));
    const other = byId("language");
    say(other, this.text("otherLanguage"));
    other.lang = this.other;
    show(other, true);
    this.showLink();
  }

  showLink() {
    document.body.dataset.link = this.link;
    say(byId("link-text"), this.text(this.link));
    show(byId("lost"), this.link === "lost");
    say(byId("lost-title"), this.text(this.snapshot ? "lostTitle" : "neverTitle", { hub: this.hub.host }));
    const hint = this.snapshot ? "known" : this.elsewhere ? "originHint" : "";
    say(byId("lost-hint"), this.text(hint, { origin: self.origin })); // "null" of a file, as the gate is told
    this.showTitle();
    this.tick();
  }

  showSnapshot() {
    this.view.show(this.snapshot, this.format);
    this.showTitle();
    this.tick();
  }

  showTitle() {
    if (this.link !== "lost" && !this.snapshot) return;
    let look = "lost", title = this.text("titleLost");
    if (this.link !== "lost") {
      const { gpus, totals } = this.snapshot;
      const ready = gpus.filter((gpu) => gpu.state === "ready").length;
      title = this.text("title", { ready, gpus: gpus.length, running: totals.running, pending: totals.pending });
      look = gpus.some((gpu) => PROBLEMS.has(lookOf(gpu))) ? "failed" : totals.running ? "busy" : "idle";
    }
    if (document.title !== title) document.title = title;
    showFavicon(look);
  }

  tick() {
    // What is shown of a lost gate stands still at that time.
    const now = (this.link === "lost" ? this.since : Date.now()) / 1000;
    if (this.snapshot) this.view.tick(now + this.ahead, this.format);
    if (this.link !== "lost") return;
    const values = { time: this.format.moment(this.since), duration: this.format.duration((Date.now() - this.since) / 1000) };
    say(byId("lost-since"), this.text("lostSince", values));
  }
}

/** Draw the tab's icon, whose shape tells as much as its colour. */
function showFavicon(look) {
  const icon = document.querySelector("link[rel=icon]");
  if (icon.dataset.look === look) return;
  icon.dataset.look = look;
  const path = byId(`s-${look}`).getAttribute("d");
  const picture = `<svg xmlns="${SVG}" viewBox="0 0 24 24"><rect width="24" height="24" rx="5" fill="${FAVICONS[look]}"/>` +
    `<path transform="translate(3.6 3.6) scale(.7)" fill="#fff" fill-rule="evenodd" d="${path}"/></svg>`;
  icon.href = `data:image/svg+xml,${encodeURIComponent(picture)}`;
}

/** The folder /comfygate/ of the gate to read: the page's own, or that of ?hub=URL; null if that is no address. */
function chosenHub() {
  const named = new URLSearchParams(location.search).get("hub");
  if (!named && location.protocol.startsWith("http")) return new URL("./", location.href);
  const hub = URL.canParse(named || DEFAULT_HUB) ? new URL(named || DEFAULT_HUB) : null;
  if (!["http:", "https:"].includes(hub?.protocol)) return null;
  return new URL("comfygate/", hub.origin + hub.pathname.replace(/\/?$/, "/"));
}

// Where storage is blocked, the choice lasts as long as the page.
function remembered() {
  try { return localStorage.getItem(CHOSEN); } catch { return null; }
}

function remember(language) {
  try { localStorage.setItem(CHOSEN, language); } catch { /* nothing is kept */ }
}

const hub = chosenHub();
if (hub) {
  new Page(hub).start();
} else {
  show(byId("link"), false);
  show(byId("lost"), true);
  say(byId("lost-title"), chooseLanguage(remembered(), navigator.languages ?? []).text("badHub"));
}
