"use strict";
// What every part of the page uses: elements, colours, icons, the card that tells of a token. Whatever comes from
// prompts, answers, ids and policies becomes text nodes, never markup.

const $ = (id) => document.getElementById(id);
const META = JSON.parse($("meta").textContent);
const INDEX = JSON.parse($("index").textContent);
const KINDS = ["argmax", "draw", "best_of", "inject", "stop", "branch", "rewind", "refork"];
const FORKS = ["branch", "rewind", "refork"];

function el(tag, look, ...kids) {
  const made = document.createElement(tag);
  if (look) made.className = look;
  made.append(...kids.filter((kid) => kid != null));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  argmax: "M7 12V2.5M3 6.5l4-4 4 4",
  draw: "M2.5 2.5h9v9h-9zM5 5v.1M9 5v.1M7 7v.1M5 9v.1M9 9v.1",
  best_of: "M3 12V8M7 12V2.5M11 12V6",
  inject: "M1.5 7h7M5.5 4l3 3-3 3M12 2v10",
  stop: "M3 3h8v8H3z",
  branch: "M1.5 7H4c3 0 3-4.5 8-4.5M4 7c3 0 3 4.5 8 4.5",
  rewind: "M3 2v4h4M3.2 6A4.8 4.8 0 1 1 3 9.6",
  refork: "M12.5 7H10C7 7 7 2.5 2 2.5M10 7c-3 0-3 4.5-8 4.5M9 4.6L12.5 7 9 9.4",
};

function icon(kind) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("class", "icon k-" + kind);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[kind] || PATHS.stop);
  svg.append(path);
  return svg;
}

const words = (kind) => kind.replace("_", " ");
const count = (n) => Number(n).toLocaleString("en");
const number = (x, digits = 3) => (x == null ? "–" : x.toFixed(digits));
const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;
const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.1 ? (100 * p).toFixed(1) + " %" : p >= 0.0001 ? (100 * p).toFixed(2) + " %" : "< 0.01 %");

// The tint of an entropy in nats: from none over amber to rose at 6, in steps of the eye.
const SCALE = [0, 0.1, 0.5, 1, 2, 3, 5];
function heat(h) {
  const t = Math.min(1, (Math.max(0, h ?? 0) / 6) ** 0.62);
  const hue = (48 - 70 * t * t + 360) % 360;
  const dark = document.documentElement.dataset.theme === "dark";
  const alpha = h < 0.02 ? 0 : (dark ? 0.06 : 0.08) + (dark ? 0.5 : 0.52) * t;
  return `hsl(${hue.toFixed(0)} ${dark ? 74 : 90}% ${dark ? 58 : 62}% / ${alpha.toFixed(3)})`;
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (kind) => css("--" + kind);

// A canvas in device pixels, cleared, with the size it has on the page.
function ready(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

// The card of a token, beside what it is about.
const tip = $("tip");
function showTip(parts, box) {
  tip.replaceChildren(...parts.filter(Boolean));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(10, box.left), innerWidth - width - 10);
  const below = box.bottom + 10;
  tip.style.left = left + "px";
  tip.style.top = Math.max(8, below + height > innerHeight - 8 ? box.top - height - 10 : below) + "px";
}
const hideTip = () => (tip.hidden = true);

// Text whose blanks and line ends can be seen.
const visible = (text) => text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";

function facts(pairs) {
  const list = el("dl");
  for (const [name, value] of pairs) if (value != null) list.append(el("dt", "", name), el("dd", "", value));
  return list;
}

function tokenCard(choice, k) {
  const kind = KINDS[choice.d?.[k]];
  const name = choice.n?.[k], bytes = choice.b?.[k];
  const text = name ?? (choice.t ? visible(choice.t[k]) : "token");
  const what = el("div", "what", text, el("small", "", choice.o ? `  #${choice.o[k]}` : ""));
  const why = kind && el("div", "why k-" + kind, icon(kind), words(kind));
  if (why && choice.g?.[k] != null) why.append(el("span", "", `region ${META.regions[choice.g[k]]}`));
  const p = choice.p?.[k] == null ? null : Math.exp(choice.p[k]);
  const list = facts([
    ["entropy H", `${number(choice.h[k])} nats`],
    ["varentropy V", `${number(choice.v[k])} nats²`],
    ["probability", p == null ? null : percent(p)],
    ["ln p", choice.p?.[k] == null ? null : number(choice.p[k])],
    ["effective choices", choice.l?.[k] > 0 ? (1 / choice.l[k]).toFixed(2) : null],
    ["temperature", choice.T?.[k] == null ? null : number(choice.T[k], 2)],
    ["position", choice.s ? String(choice.s[k]) : `${k + 1} of the answer`],
    ["bytes", bytes ? bytes.map((b) => b.toString(16).padStart(2, "0")).join(" ") + ", part of a character" : null],
    ...(choice.A?.[k] ? META.attention.map((name, i) => [name, number(choice.A[k][i])]) : []),
  ]);
  const candidates = choice.a?.[k];
  const cands = candidates?.length && el("div", "cands", ...candidates.map(([token, lp, said]) => {
    const bar = el("i");
    bar.style.width = 100 * Math.exp(lp) + "%";
    return el("div", token === choice.o[k] ? "cand took" : "cand", el("code", "", said === "" ? `#${token}` : visible(said)), el("div", "meter", bar), el("span", "", percent(Math.exp(lp))));
  }));
  return [what, why, list, cands];
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  dispatchEvent(new Event("themechange"));
}
const system = matchMedia("(prefers-color-scheme: dark)");
setTheme(system.matches);
system.addEventListener("change", (event) => setTheme(event.matches));
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
