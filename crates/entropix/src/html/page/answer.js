// One answer: its text tinted by entropy, its timeline, its branches.

const view = { row: -1, c: 0, way: [], spans: [], choice: null, line: null };
const PIECE = 1500;

function open(row, c = 0, at = null) {
  const isOther = row !== view.row || c !== view.c;
  view.row = row;
  view.c = c;
  select(row);
  if (isOther) draw();
  if (at != null) {
    while (view.spans.length <= at && view.more()) {}
    view.spans[at]?.scrollIntoView({ block: "center" });
    view.spans[at]?.focus({ preventScroll: true });
  }
}

function draw() {
  const entry = INDEX[view.row], data = request(view.row), detail = $("detail");
  view.spans = [];
  view.line = null;
  const choice = (view.choice = data.c[view.c] ?? null);
  const turn = (text, by, name) => {
    const button = el("button", "", text);
    button.type = "button";
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => step(by));
    return button;
  };
  const turns = [turn("‹", -1, "Answer before"), turn("›", 1, "Next answer")];
  view.turn = () => {
    const place = list.order.indexOf(view.row);
    turns[0].disabled = place <= 0;
    turns[1].disabled = place + 1 >= list.order.length;
  };
  view.turn();
  const title = el("h3", "", entry.id);
  detail.setAttribute("aria-label", entry.id);
  detail.replaceChildren(el("div", "head", el("div", "", title, el("p", "sub", `${count(view.row + 1)} of ${count(INDEX.length)} by doubt`)), el("div", "nav", ...turns)));
  if (data.q?.length) detail.append(el("div", "prompt", ...data.q.map(([role, text]) => el("div", "", el("b", "", role), el("span", "", text)))));
  if (data.err) detail.append(el("p", "note", `${data.err[0]}: ${data.err[1]}`));
  if (data.c.length > 1) {
    const tabs = el("div", "tabs", ...data.c.map((_, c) => {
      const tab = el("button", "tab", `answer ${c + 1}`);
      tab.type = "button";
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-selected", c === view.c);
      tab.addEventListener("click", () => open(view.row, c));
      return tab;
    }));
    tabs.setAttribute("role", "tablist");
    detail.append(tabs);
  }
  if (!choice) return;
  view.way = path(choice);
  if (view.way.length) detail.append(timeline(choice, view.way));
  const text = el("div", "text");
  text.id = "text";
  detail.append(text);
  if (choice.t) tokens(text, choice);
  else text.append(choice.x ? choice.x : el("span", "none", "The answer is empty."));
  detail.append(figures(choice));
  const contests = (choice.e ?? []).length ? trees(choice) : null;
  if (contests) detail.append(contests);
  if (view.line) view.line.draw();
}

// The tokens, a piece at a time: the next comes when the end of the last is near.
function tokens(box, choice) {
  const texts = shown(choice, view.way);
  const opens = new Map((choice.e ?? []).flatMap((event, e) => (event.gone ? [] : [[event.at, e]])));
  if (!view.way.length) box.append(el("span", "none", "The answer is empty."));
  const sentinel = el("span");
  box.append(sentinel);
  view.more = () => {
    const from = view.spans.length;
    if (from >= view.way.length) return false;
    const piece = view.way.slice(from, from + PIECE).map((k, i) => token(choice, k, texts[from + i], { at: from + i, tree: opens.get(from + i) }));
    view.spans.push(...piece);
    sentinel.before(...piece);
    return true;
  };
  view.more();
  if (view.spans.length < view.way.length) {
    const spy = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting) && !view.more()) spy.disconnect(); }, { rootMargin: "600px" });
    spy.observe(sentinel);
  }
  if (view.spans[0]) view.spans[0].tabIndex = 0;
}

function token(choice, k, text, { at = null, tree = null } = {}) {
  const kind = KINDS[choice.d?.[k]] ?? "argmax";
  const span = el("span", `t k-${kind}`);
  span.style.background = heat(choice.h[k]);
  if (FORKS.includes(kind) && at != null && tree != null) span.append(icon(kind));
  if (text === "" || choice.n?.[k]) span.append(el("em", "", choice.n?.[k] ?? "·"));
  else span.append(text);
  span.card = () => tokenCard(choice, k);
  span.place = { k, at, tree };
  if (at != null) {
    span.tabIndex = -1;
    span.setAttribute("aria-label", `${text.trim() || visible(text)}, ${words(kind)}, entropy ${number(choice.h[k], 2)}`);
    if (tree != null) span.classList.add("opens");
  }
  return span;
}

function figures(choice) {
  const [prompt, said, lost] = choice.u ?? [];
  const sum = choice.S ?? {};
  const line = el("div", "figures");
  const add = (name, value) => value != null && line.append(el("span", "", `${name} `, el("b", "", value)));
  add("ended by", choice.r ? `${choice.f}: ${choice.r}` : choice.f);
  add("prompt", prompt == null ? null : plural(prompt, "token"));
  add("answer", said == null ? null : plural(said, "token"));
  add("extra", lost ? plural(lost, "token") : null);
  for (const [name, value] of Object.entries(sum)) add(name.replaceAll("_", " "), Number.isInteger(value) ? count(value) : number(value));
  return line;
}

// What is under the pointer or the focus says what it is; a tap is a click.
const spanOf = (event) => event.target.closest?.(".t");
function tell(span) {
  showTip(span.card(), span.getBoundingClientRect());
  const { k, at } = span.place;
  const choice = view.choice;
  if (at != null) { ring(choice.h[k], choice.v[k]); view.line?.mark(at); }
}
function untell() { hideTip(); ring(); view.line?.mark(null); }

$("detail").addEventListener("pointerover", (event) => { const span = spanOf(event); if (span) tell(span); });
$("detail").addEventListener("pointerout", (event) => { if (spanOf(event)) untell(); });
$("detail").addEventListener("focusin", (event) => {
  const span = spanOf(event);
  if (!span || span.place.at == null) return;
  view.spans.forEach((other) => (other.tabIndex = -1));
  span.tabIndex = 0;
  tell(span);
});
$("detail").addEventListener("focusout", (event) => { if (spanOf(event)) untell(); });
$("detail").addEventListener("click", (event) => {
  const span = spanOf(event);
  if (!span) return;
  if (span.place.at != null) { span.focus({ preventScroll: true }); if (span.place.tree != null) openTree(span.place.tree); }
  tell(span);
});
$("detail").addEventListener("keydown", (event) => {
  const span = spanOf(event);
  if (!span || span.place.at == null) return;
  const to = { ArrowRight: span.place.at + 1, ArrowLeft: span.place.at - 1, Home: 0, End: view.way.length - 1 }[event.key];
  if (to != null) {
    while (to >= view.spans.length && view.more()) {}
    view.spans[to]?.focus();
  } else if (event.key === "Enter" && span.place.tree != null) openTree(span.place.tree);
  else return;
  event.preventDefault();
});

function openTree(e) {
  const tree = document.getElementById("tree" + e);
  tree.open = true;
  tree.scrollIntoView({ block: "nearest" });
  tree.querySelector("summary").focus({ preventScroll: true });
}
