// Numbers, spans of time and moments as people read them. Pure.

/** Between a number and its unit: the two stay on one line. */
const GAP = "\u00a0";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** A span of time with at most three significant digits: "840 µs", "12.4 ms", "3.2 s", "4 min 10 s", "2 d 3 h". */
export function duration(ms: number | null | undefined): string {
  if (ms == null || !Number.isFinite(ms)) return "–";
  if (ms < 0) return `−${duration(-ms)}`;
  if (ms === 0) return `0${GAP}ms`;
  if (ms < 0.9995) return `${significant(ms * 1000)}${GAP}µs`;
  if (ms < 999.5) return `${significant(ms)}${GAP}ms`;
  if (ms < MINUTE_MS) return `${significant(ms / 1000)}${GAP}s`;
  if (ms < HOUR_MS) return pair(ms, MINUTE_MS, "min", 1000, "s");
  if (ms < DAY_MS) return pair(ms, HOUR_MS, "h", MINUTE_MS, "min");
  return pair(ms, DAY_MS, "d", HOUR_MS, "h");
}

function pair(ms: number, large: number, largeUnit: string, small: number, smallUnit: string): string {
  const whole = Math.floor(ms / large);
  const rest = Math.floor((ms - whole * large) / small);
  const first = `${whole}${GAP}${largeUnit}`;
  return rest === 0 ? first : `${first} ${rest}${GAP}${smallUnit}`;
}

function significant(value: number): string {
  if (value >= 100) return Math.round(value).toString();
  return value.toPrecision(value >= 10 ? 3 : 2).replace(/\.?0+$/, "");
}

export function micros(us: number | null | undefined): string {
  return us == null ? "–" : duration(us / 1000);
}

/** How long ago a moment was, in its largest unit: "now", "40 s ago", "3 min ago". */
export function ago(moment: string | number | null | undefined, now: number): string {
  if (moment == null || moment === "") return "never";
  const then = typeof moment === "number" ? moment : Date.parse(moment);
  if (Number.isNaN(then)) return "never";
  const ms = now - then;
  if (ms < 2_000) return "now";
  if (ms < MINUTE_MS) return `${Math.floor(ms / 1000)} s ago`;
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min ago`;
  if (ms < DAY_MS) return `${Math.floor(ms / HOUR_MS)} h ago`;
  return `${Math.floor(ms / DAY_MS)} d ago`;
}

const wholeNumber = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value: number | null | undefined): string {
  return value == null ? "–" : wholeNumber.format(value);
}

/** "1 child", "7 children". */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function rate(perSecond: number | null | undefined): string {
  if (perSecond == null) return "–";
  if (perSecond === 0) return "0";
  if (perSecond < 0.1) return "< 0.1";
  return perSecond < 100 ? perSecond.toFixed(1).replace(/\.0$/, "") : count(perSecond);
}

/** A share of one as a percentage that shows 100 % only when it is whole. */
export function percent(share: number | null | undefined): string {
  if (share == null) return "–";
  if (share >= 1) return `100${GAP}%`;
  const floored = Math.floor(share * 1000) / 10;
  return `${floored.toFixed(1).replace(/\.0$/, "")}${GAP}%`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function timeOfDay(moment: string | number | null | undefined): string {
  const date = toDate(moment);
  return date ? clock.format(date) : "–";
}

export function moment(value: string | number | null | undefined): string {
  const date = toDate(value);
  return date ? dateTime.format(date) : "–";
}

function toDate(value: string | number | null | undefined): Date | null {
  if (value == null || value === "") return null;
  const date = new Date(value);
  return Number.isNaN(date.getTime()) ? null : date;
}

/** The end of a long identifier, which is what tells two apart; the beginning is the time it was made. */
export function shortId(id: string): string {
  return id.length > 12 ? `…${id.slice(-6)}` : id;
}

/** "half_open" and "PostMortem" as words: "half open", "post mortem". */
export function words(name: string): string {
  return name
    .replace(/([a-z])([A-Z])/g, "$1 $2")
    .replace(/[_-]+/g, " ")
    .toLowerCase();
}
