// How a panel's values are written: by its unit, in the page's language.
const language = () => document.documentElement.lang;
const number = (value, digits = 3) => new Intl.NumberFormat(language(), { maximumSignificantDigits: digits }).format(value);

function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 1) return `${number(value * 1000)} ms`;
  return value < 120 ? `${number(value)} s` : `${number(value / 60)} min`;
}

function bytes(value) {
  const names = ["B", "KB", "MB", "GB", "TB"];
  const place = value > 0 ? Math.min(names.length - 1, Math.floor(Math.log2(value) / 10)) : 0;
  return `${number(value / 1024 ** place)} ${names[place]}`;
}

const UNITS = {
  PER_SECOND: (value) => `${number(value)}/s`,
  PER_MINUTE: (value) => `${number(value)}/min`,
  TOKENS: (value) => `${number(value)} tokens/s`,
  SECONDS: seconds,
  SHARE: (value) => `${number(value * 100)} %`,
  BYTES: bytes,
  COUNT: (value) => number(value),
  PERCENT: (value) => `${number(value)} %`,
};
const ON_AXIS = { TOKENS: (value) => number(value) };

export const written = (unit, value) => (value === null || value === undefined ? "–" : UNITS[unit](value));
export const onAxis = (unit, value) => (value === null ? "" : (ON_AXIS[unit] ?? UNITS[unit])(value));

export function timeOfDay(seconds, second) {
  return new Date(seconds * 1000).toLocaleTimeString(language(), { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23", timeZone: "UTC" });
}
