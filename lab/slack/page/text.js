// Slack's mrkdwn as DOM nodes. Text is only ever set as text: what a message says never becomes markup.

const EMOJI = {
  white_check_mark: "✅", x: "❌", warning: "⚠️", hourglass_flowing_sand: "⏳", hourglass: "⌛", lock: "🔒", unlock: "🔓",
  rocket: "🚀", calendar: "📅", bar_chart: "📊", no_entry: "⛔", arrow_right: "➡️", rewind: "⏪", repeat: "🔁", memo: "📝",
  large_green_circle: "🟢", large_yellow_circle: "🟡", red_circle: "🔴", white_circle: "⚪", zap: "⚡", wave: "👋", bell: "🔔",
};

const MARKS = [
  [/^```([\s\S]+?)```/, "pre"], [/^`([^`\n]+)`/, "code"], [/^\*([^*\n]+)\*/, "strong"],
  [/^_([^_\n]+)_(?![A-Za-z0-9])/, "em"], [/^~([^~\n]+)~/, "del"],
];

export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function renderText(text, names) {
  if (!text) return make("span");
  if (text.type === "plain_text") return make("span", {}, withEmoji(text.text));
  return make("span", {}, ...renderMrkdwn(text.text, names));
}

export function renderMrkdwn(source, names) {
  const nodes = [];
  let plain = "";
  const flush = () => { if (plain) { nodes.push(...withLines(withEmoji(unescape(plain)))); plain = ""; } };
  for (let rest = source, before = ""; rest;) {
    const angle = /^<([^<>\n]+)>/.exec(rest);
    const mark = /[A-Za-z0-9]/.test(before) ? undefined : MARKS.map(([pattern, tag]) => [pattern.exec(rest), tag]).find(([found]) => found);
    if (angle) { flush(); nodes.push(renderAngle(angle[1], names)); before = ">"; rest = rest.slice(angle[0].length); continue; }
    if (mark) {
      flush();
      const [found, tag] = mark;
      const inner = tag === "pre" || tag === "code" ? [unescape(found[1])] : renderMrkdwn(found[1], names);
      nodes.push(make(tag, {}, ...inner));
      before = found[0].slice(-1); rest = rest.slice(found[0].length);
      continue;
    }
    plain += rest[0]; before = rest[0]; rest = rest.slice(1);
  }
  flush();
  return nodes;
}

function renderAngle(inner, names) {
  const [target, label] = inner.split("|");
  if (target.startsWith("@")) return make("b", { class: "mention" }, "@" + (names[target.slice(1)] ?? label ?? target.slice(1)));
  if (target.startsWith("#")) return make("b", {}, "#" + (label ?? names[target.slice(1)] ?? target.slice(1)));
  if (target.startsWith("!date^")) return renderDate(target, label);
  if (target.startsWith("!subteam^")) return make("b", { class: "mention" }, label ?? "@" + (names[target.split("^")[1]] ?? "group"));
  if (/^(https?:|mailto:|\/)/.test(target)) return make("a", { href: unescape(target), target: "_blank", rel: "noreferrer" }, unescape(label ?? target));
  return document.createTextNode(unescape(label ?? target));
}

function renderDate(target, fallback) {
  const [, seconds, format] = target.split("^");
  const when = new Date(Number(seconds) * 1000);
  if (Number.isNaN(when.getTime())) return document.createTextNode(fallback ?? "");
  const time = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const shown = format
    .replace(/\{time_secs\}/g, when.toLocaleTimeString())
    .replace(/\{time\}/g, time)
    .replace(/\{date[a-z_]*\}/g, when.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" }))
    .replace(/\{ago\}/g, time);
  return make("time", { datetime: when.toISOString(), title: fallback }, shown);
}

function withLines(text) {
  return text.split("\n").flatMap((line, number) => (number ? [document.createElement("br"), line] : [line]));
}

function withEmoji(text) {
  return text.replace(/:([a-z_]+):/g, (whole, name) => EMOJI[name] ?? whole);
}

function unescape(text) {
  return text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
}
