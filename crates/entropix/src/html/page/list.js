// The answers as a list: only the rows that can be seen are built.

const ROW = 84;
const list = { box: $("list"), inner: $("rows"), order: [], built: new Map(), selected: -1, kind: null };

function orderList() {
  const wanted = $("search").value.trim().toLowerCase();
  const by = $("sort").value;
  const fits = (entry) => (!list.kind || entry.d?.[list.kind]) && (!wanted || entry.id.toLowerCase().includes(wanted) || entry.s.toLowerCase().includes(wanted));
  list.order = INDEX.map((_, i) => i).filter((i) => fits(INDEX[i]));
  if (by === "id") list.order.sort((a, b) => INDEX[a].id.localeCompare(INDEX[b].id, "en", { numeric: true }));
  else list.order.sort((a, b) => (INDEX[b][by] ?? -1) - (INDEX[a][by] ?? -1) || a - b);
  list.built.forEach((row) => row.remove());
  list.built.clear();
  list.inner.style.height = list.order.length * ROW + "px";
  const n = list.order.length;
  $("count").textContent = n === INDEX.length ? plural(n, "answer") : `${count(n)} of ${plural(INDEX.length, "answer")}`;
  buildRows();
  view.turn?.();
}

function buildRows() {
  const first = Math.max(0, Math.floor(list.box.scrollTop / ROW) - 4);
  const last = Math.min(list.order.length, Math.ceil((list.box.scrollTop + list.box.clientHeight) / ROW) + 4);
  for (const [place, row] of list.built) if (place < first || place >= last) { row.remove(); list.built.delete(place); }
  for (let place = first; place < last; place++) {
    if (list.built.has(place)) continue;
    const row = buildRow(list.order[place], place);
    list.built.set(place, row);
    list.inner.append(row);
  }
}

function buildRow(i, place) {
  const entry = INDEX[i];
  const row = el("div", "row", el("span", "id", entry.id));
  row.id = "row" + i;
  row.style.top = place * ROW + "px";
  row.setAttribute("role", "option");
  row.setAttribute("aria-setsize", list.order.length);
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-selected", i === list.selected);
  row.append(entry.e ? el("span", "h", entry.e) : el("span", "h", number(entry.h, 2), el("small", "", " nats")));
  row.append(el("span", "say", entry.s || (entry.e ? "" : "∅")));
  if (entry.k?.length) {
    const strip = el("div", "strip", ...entry.k.map((h) => { const cell = el("i"); cell.style.background = heat(h); return cell; }));
    strip.setAttribute("aria-hidden", "true");
    row.append(strip);
  } else row.append(el("span"));
  const marks = el("span", "marks");
  for (const kind of ["branch", "rewind", "refork", "inject", "stop"]) if (entry.d?.[kind]) marks.append(icon(kind));
  if (entry.x) marks.append(`+${count(entry.x)}`);
  row.append(marks);
  row.addEventListener("click", () => { open(i); if (innerWidth <= 1020) $("detail").scrollIntoView(); });
  return row;
}

// Marks a row as the one that is shown and brings it into sight.
function select(i) {
  list.selected = i;
  list.built.forEach((row, place) => row.setAttribute("aria-selected", list.order[place] === i));
  const place = list.order.indexOf(i);
  if (place < 0) return;
  const { scrollTop, clientHeight } = list.box;
  if (place * ROW < scrollTop) list.box.scrollTop = place * ROW;
  else if ((place + 1) * ROW > scrollTop + clientHeight) list.box.scrollTop = (place + 1) * ROW - clientHeight;
  buildRows();
  list.box.setAttribute("aria-activedescendant", "row" + i);
}

function step(by) {
  const n = list.order.length;
  if (!n) return;
  const now = list.order.indexOf(list.selected);
  open(list.order[now < 0 ? 0 : Math.min(n - 1, Math.max(0, now + by))]);
}

list.box.addEventListener("scroll", () => (list.frame ??= requestAnimationFrame(() => { list.frame = null; buildRows(); })), { passive: true });
list.box.addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity }[event.key];
  if (by) step(by);
  else if (event.key === "Enter") $("detail").querySelector(".t")?.focus();
  else return;
  event.preventDefault();
});
$("search").addEventListener("input", orderList);
$("sort").addEventListener("change", orderList);
