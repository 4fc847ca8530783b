// The stream of snapshots: opened again whenever it ends or falls silent.
"use strict";

const ANSWER_WITHIN = 10_000; // ms until the first snapshot of a stream
const QUIET_FOR = 45_000; // ms without a snapshot after which the stream is opened anew: a dead connection says nothing
const LONGEST_PAUSE = 8_000;

/**
 * Reads `url` as long as the page is open. `onSnapshot(object)` gets each snapshot; `onLink("live" | "lost", since)`
 * is told when that changes, with the time (ms) when the gate was last heard of.
 */
class Live {
  constructor(url, onSnapshot, onLink) {
    Object.assign(this, { url, onSnapshot, onLink, heard: Date.now(), link: "connecting", pause: 1000 });
    addEventListener("online", () => this.open());
    addEventListener("pageshow", (event) => event.persisted && this.open());
    addEventListener("pagehide", () => this._close());
    document.addEventListener("visibilitychange", () => {
      // Timers rest in a hidden tab or a sleeping laptop, and the connection may be gone by now.
      if (!document.hidden && (this.link === "lost" || Date.now() - this.heard > QUIET_FOR)) this.open();
    });
  }

  open() {
    this._close();
    this.source = new EventSource(this.url);
    this.source.addEventListener("status", (event) => this._received(event.data));
    this.source.onerror = () => this._lost(Date.now());
    this.timer = setTimeout(() => this._lost(this.heard), ANSWER_WITHIN);
  }

  _received(data) {
    this.heard = Date.now();
    this.pause = 1000;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), QUIET_FOR);
    this._changed("live", this.heard);
    this.onSnapshot(JSON.parse(data));
  }

  _lost(since) {
    this._close();
    this.timer = setTimeout(() => this.open(), this.pause);
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
    this._changed("lost", this.link === "connecting" ? this.heard : since);
  }

  _changed(link, since) {
    if (link === this.link) return;
    this.link = link;
    this.onLink(link, since);
  }

  _close() {
    clearTimeout(this.timer);
    this.source?.close();
  }
}
