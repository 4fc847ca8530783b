// Numbers, sizes, times and texts in the reader's language.
"use strict";

const DURATIONS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

/** Formats for one language; `locale` may be more exact, such as en-GB. */
class Format {
  constructor(language, locale) {
    this.language = language;
    this.locale = locale;
    this.texts = TEXTS[language];
    this._formats = new Map();
  }

  /** A text; of a pair, the first for a `count` of 1. */
  text(key, values = {}, count = 0) {
    const found = this.texts[key] ?? "";
    const text = Array.isArray(found) ? found[count === 1 ? 0 : 1] : found;
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  }

  number(value, digits = 0) {
    return this._number({ maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
  }

  percent(share) {
    return this._number({ style: "percent" }).format(share);
  }

  /** A node's step: whole as it is, otherwise with two digits. */
  step(value) {
    return this._number({ maximumFractionDigits: 2 }).format(value);
  }

  /** Bytes in the unit of `scale`, with or without its name. */
  size(bytes, scale = bytes, named = true) {
    const gib = scale >= 2 ** 30;
    const text = this.number(bytes / 2 ** (gib ? 30 : 20), gib ? 1 : 0);
    return named ? `${text} ${gib ? "GiB" : "MiB"}` : text;
  }

  /** Seconds in the two largest units that say something. */
  duration(seconds) {
    let left = Math.max(0, Math.floor(seconds));
    const first = Math.max(0, DURATIONS.findIndex(([, size]) => left >= size));
    const [start, end] = left < 60 ? [3, 4] : [first, first + 2];
    const parts = [];
    for (const [unit, size] of DURATIONS.slice(start, end)) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count || !parts.length) parts.push(this._number({ style: "unit", unit, unitDisplay: "narrow" }).format(count));
    }
    return parts.join(" ");
  }

  /** A moment (ms), with its date unless that is today. */
  moment(time) {
    const date = new Date(time);
    const today = date.toDateString() === new Date().toDateString();
    const style = today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
    return this._made("d" + today, () => new Intl.DateTimeFormat(this.locale, style)).format(date);
  }

  /** GPU ids; neighbours as a range. */
  ids(ids) {
    const range = ids.length > 2 && ids.at(-1) - ids[0] === ids.length - 1;
    return range ? `${ids[0]}–${ids.at(-1)}` : ids.join(", ");
  }

  _number(options) {
    return this._made(JSON.stringify(options), () => new Intl.NumberFormat(this.locale, options));
  }

  _made(key, make) {
    if (!this._formats.has(key)) this._formats.set(key, make());
    return this._formats.get(key);
  }
}

/** What was chosen here before, or the first of the browser's languages that the page speaks. */
function chooseLanguage(chosen, languages) {
  const locales = languages.filter((one) => TEXTS[one.slice(0, 2).toLowerCase()]);
  const language = TEXTS[chosen] ? chosen : (locales[0] ?? "en").slice(0, 2).toLowerCase();
  const fallback = language === "zh" ? "zh-CN" : "en";
  return new Format(language, locales.find((one) => one.toLowerCase().startsWith(language)) ?? fallback);
}
