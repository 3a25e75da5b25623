// The head of the page, the table of decisions, and the first picture.

function intro() {
  document.title = `${META.name} · entropix report`;
  $("name").textContent = META.name;
  const about = $("facts"), parts = [];
  if (META.model) parts.push(["model", META.model.name, META.model.precision ? ` (${META.model.precision})` : ""]);
  if (META.policy) parts.push(["policy", META.policy.name]);
  if (META.seed != null) parts.push(["seed", String(META.seed)]);
  parts.push(["entropix", META.version]);
  parts.forEach(([what, bold, rest], i) => about.append(i ? " · " : "", `${what} `, el("b", "", bold), rest ?? ""));
  const t = META.totals;
  const total = (name, value, unit) => $("totals").append(el("div", "", el("dt", "", name), el("dd", "", value, unit ? el("small", "", ` ${unit}`) : null)));
  total("requests", count(t.requests), t.failed ? `${count(t.failed)} failed` : "");
  total("tokens of the answers", count(t.tokens));
  if (t.entropy != null) total("mean entropy", number(t.entropy, 2), "nats");
  if (t.varentropy != null) total("mean varentropy", number(t.varentropy, 2), "nats²");
  total("extra tokens", count(t.discarded), t.tokens ? `+${((100 * t.discarded) / t.tokens).toFixed(t.discarded * 20 < t.tokens ? 1 : 0)} %` : "");
  for (const note of META.notes) $("notes").append(el("p", "note", note));
}

function decisions() {
  const all = META.totals.decisions;
  const known = all.some((one) => one.tokens || one.times);
  $("decisions-sub").textContent = !known ? "No decisions are recorded in this file." : META.kind === "trace" ? "Extra tokens are those computed and thrown away by a decision." : "Which decision threw tokens away is told by a trace.";
  if (!known) return;
  const most = Math.max(...all.map((one) => one.tokens), 1);
  const body = el("tbody");
  for (const one of all) {
    if (!one.tokens && !one.times) continue;
    const bar = el("i");
    bar.style.width = (100 * one.tokens) / most + "%";
    const button = el("button", `k-${one.kind}`, icon(one.kind), el("span", "word", words(one.kind)), el("span", "share", bar));
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `${words(one.kind)}: show only answers with it`);
    button.addEventListener("click", () => {
      list.kind = list.kind === one.kind ? null : one.kind;
      body.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", other === button && list.kind != null));
      orderList();
    });
    const cell = (n) => el("td", n ? "" : "zero", n == null ? "–" : count(n));
    body.append(el("tr", "", el("td", "", button), cell(one.tokens), cell(one.times), cell(one.discarded)));
  }
  const head = (text) => { const th = el("th", "", text); th.scope = "col"; return th; };
  const table = el("table", "kinds", el("thead", "", el("tr", "", head("decision"), head("tokens"), head("times"), head("extra"))), body);
  $("decisions").append(table);
}

function policy() {
  if (!META.policy) return;
  const limits = (signal, { above, below }) => [above === null || below === null ? `${signal} by a quantile that is not resolved here` : null, above == null ? null : `${signal} above ${number(above)}`, below == null ? null : `${signal} below ${number(below)}`];
  const rules = regions.map((region) => el("li", "", icon(region.decision), el("b", "", region.name), ` ${words(region.decision)}`, el("span", "", [...Object.entries(region.bounds).flatMap(([signal, bound]) => limits(signal, bound)), ...region.conditions].filter(Boolean).join(" · "))));
  const box = el("details", "policy", el("summary", "", `Policy ${META.policy.name}, asked in this order`), META.policy.description ? el("p", "sub", META.policy.description) : null, el("ol", "", ...rules));
  box.open = innerWidth > 1020 && rules.length <= 6;
  $("policy").append(box);
}

function scale() {
  $("scale").replaceChildren(el("span", "", "H in nats"), ...SCALE.map((h) => { const cell = el("i", "", String(h)); cell.style.background = heat(h); return cell; }));
}

addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !typing) { $("search").focus(); event.preventDefault(); }
  if (event.key === "Escape") { hideTip(); if (typing) { $("search").value = ""; orderList(); list.box.focus(); } }
});
function redraw() {
  scale();
  list.built.forEach((row) => row.remove());
  list.built.clear();
  buildRows();
  if (META.kind !== "none") drawPlane();
  if (view.row >= 0) draw();
}
addEventListener("themechange", redraw);
// The window, or a neighbour that was opened, changes what room there is.
let resizing;
const resize = new ResizeObserver(() => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (META.kind !== "none") drawPlane(); view.line?.draw(); buildRows(); }, 60);
});
[plane.canvas.parentElement, list.box, $("detail")].forEach((box) => resize.observe(box));
addEventListener("scroll", () => hideTip(), { passive: true });

intro();
decisions();
policy();
scale();
orderList();
if (list.order.length) open(list.order[0]);
else $("detail").append(el("p", "none", "There is nothing in this file yet."));
document.documentElement.dataset.ready = Math.round(performance.now());
fill();
