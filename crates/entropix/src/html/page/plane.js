// The plane of entropy and varentropy: the policy's regions below, the tokens above. Both axes grow with the root, so
// that the many sure tokens do not lie on one another.

const plane = { canvas: $("plane"), h: [], v: [], kind: [], row: [], at: [], stride: 1, hot: -1, chosen: -1, image: null };
const MARGIN = { left: 40, right: 12, top: 12, bottom: 36 };
const DRAWN = 60000;
const isSummary = META.kind === "summary";

function axes(width, height) {
  const most = { h: Math.max(0.5, META.most.h) * 1.04, v: Math.max(0.5, META.most.v) * 1.04 };
  const across = width - MARGIN.left - MARGIN.right, up = height - MARGIN.top - MARGIN.bottom;
  const clip = (x, most) => Math.min(Math.max(x, 0), most);
  return {
    most,
    x: (h) => MARGIN.left + across * Math.sqrt(clip(h, most.h) / most.h),
    y: (v) => MARGIN.top + up * (1 - Math.sqrt(clip(v, most.v) / most.v)),
  };
}

// Which region a place belongs to; several where the later of them ask for more than these two signals.
const regions = META.policy?.regions ?? [];
const known = (region) => Object.values(region.bounds).every((b) => b.above !== null && b.below !== null);
const isPlain = (region) => known(region) && !region.conditions.length && Object.keys(region.bounds).every((s) => s === "entropy" || s === "varentropy");
const onPlane = (region) => known(region) && (region.bounds.entropy || region.bounds.varentropy);
const within = (bound, x) => !bound || ((bound.above ?? -Infinity) < x && x < (bound.below ?? Infinity));
const holds = (region, h, v) => onPlane(region) && within(region.bounds.entropy, h) && within(region.bounds.varentropy, v);

// The middle of what can be seen of each region.
function labels(scale, width, height) {
  const cells = regions.map(() => []);
  const last = regions.length - 1;
  for (let i = 0; i < 40; i++) {
    for (let j = 0; j < 40; j++) {
      const h = scale.most.h * ((i + 0.5) / 40) ** 2, v = scale.most.v * ((j + 0.5) / 40) ** 2;
      const first = regions.findIndex((region) => holds(region, h, v));
      cells[first < 0 ? last : first]?.push([scale.x(h), scale.y(v)]);
    }
  }
  return cells.map((found) => {
    if (found.length < 12) return null;
    const mean = [0, 1].map((axis) => found.reduce((sum, cell) => sum + cell[axis], 0) / found.length);
    return found.reduce((best, cell) => (Math.hypot(cell[0] - mean[0], cell[1] - mean[1]) < Math.hypot(best[0] - mean[0], best[1] - mean[1]) ? cell : best));
  });
}

function hatch(pen, look) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 7;
  const small = tile.getContext("2d");
  small.strokeStyle = look;
  small.globalAlpha = 0.4;
  small.beginPath();
  for (const d of [-7, 0, 7]) { small.moveTo(d, 7); small.lineTo(d + 7, 0); }
  small.stroke();
  return pen.createPattern(tile, "repeat");
}

function drawGround(pen, scale, width, height) {
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const last = regions[regions.length - 1];
  if (last && known(last)) {
    pen.globalAlpha = 0.045;
    pen.fillStyle = colour(last.decision);
    pen.fillRect(MARGIN.left, MARGIN.top, right - MARGIN.left, bottom - MARGIN.top);
  }
  for (const region of [...regions].reverse().filter(onPlane)) {
    const { entropy: e = {}, varentropy: v = {} } = region.bounds;
    const x0 = scale.x(e.above ?? 0), x1 = e.below == null ? right : scale.x(e.below);
    const y0 = scale.y(v.above ?? 0), y1 = v.below == null ? MARGIN.top : scale.y(v.below);
    if (x1 - x0 < 1 || y0 - y1 < 1) continue;
    if (isPlain(region)) {
      pen.globalAlpha = 1;
      pen.fillStyle = css("--card");
      pen.fillRect(x0, y1, x1 - x0, y0 - y1);
      pen.globalAlpha = 0.1;
      pen.fillStyle = colour(region.decision);
    } else {
      pen.globalAlpha = 0.55;
      pen.fillStyle = hatch(pen, colour(region.decision));
    }
    pen.fillRect(x0, y1, x1 - x0, y0 - y1);
    pen.globalAlpha = 0.5;
    pen.strokeStyle = colour(region.decision);
    pen.setLineDash(isPlain(region) ? [] : [4, 4]);
    pen.strokeRect(x0 + 0.5, y1 + 0.5, x1 - x0 - 1, y0 - y1 - 1);
    pen.setLineDash([]);
  }
  pen.globalAlpha = 1;
  pen.fillStyle = css("--faint");
  pen.strokeStyle = css("--line");
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(MARGIN.left + 0.5, MARGIN.top);
  pen.lineTo(MARGIN.left + 0.5, bottom + 0.5);
  pen.lineTo(right, bottom + 0.5);
  pen.stroke();
  const ticks = [0, 0.1, 0.5, 1, 2, 4, 6, 8, 12, 20, 40, 80, 160];
  pen.textAlign = "center";
  let free = -1;
  for (const tick of ticks.filter((tick) => tick < scale.most.h)) {
    if (scale.x(tick) < free) continue;
    free = scale.x(tick) + 26;
    pen.fillText(String(tick), scale.x(tick), bottom + 15);
  }
  pen.fillText("entropy H, nats", (MARGIN.left + right) / 2, height - 4);
  pen.textAlign = "right";
  free = Infinity;
  for (const tick of ticks.filter((tick) => tick < scale.most.v)) {
    if (scale.y(tick) > free) continue;
    free = scale.y(tick) - 15;
    pen.fillText(String(tick), MARGIN.left - 6, scale.y(tick) + 4);
  }
  pen.save();
  pen.translate(11, (MARGIN.top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText("varentropy V, nats²", 0, 0);
  pen.restore();
}

function drawNames(pen, scale, width, height) {
  const places = labels(scale, width, height);
  pen.textAlign = "center";
  pen.font = "600 12.5px system-ui, sans-serif";
  regions.forEach((region, i) => {
    if (!places[i]) return;
    const text = `${region.name} · ${words(region.decision)}`;
    const half = pen.measureText(text).width / 2 + 7;
    const x = Math.min(Math.max(places[i][0], MARGIN.left + half), width - MARGIN.right - half), y = places[i][1];
    pen.globalAlpha = 0.86;
    pen.fillStyle = css("--card");
    pen.beginPath();
    pen.roundRect(x - half, y - 13, 2 * half, 20, 7);
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = colour(region.decision);
    pen.fillText(text, x, y + 1.5);
  });
}

function drawPlane() {
  const { pen, width, height } = ready(plane.canvas);
  const scale = axes(width, height);
  drawGround(pen, scale, width, height);
  const n = plane.h.length;
  plane.stride = Math.max(1, Math.ceil(n / DRAWN));
  const looks = KINDS.map(colour);
  const drawn = Math.ceil(n / plane.stride);
  const size = isSummary ? 3 : drawn > 20000 ? 1 : drawn > 3000 ? 1.35 : 2;
  pen.globalAlpha = isSummary ? 0.8 : drawn > 20000 ? 0.35 : drawn > 3000 ? 0.5 : 0.66;
  for (let i = 0; i < n; i += plane.stride) {
    pen.fillStyle = looks[plane.kind[i]] ?? looks[0];
    pen.beginPath();
    pen.arc(scale.x(plane.h[i]), scale.y(plane.v[i]), size, 0, 7);
    pen.fill();
  }
  drawNames(pen, scale, width, height);
  plane.image ??= document.createElement("canvas");
  plane.image.width = plane.canvas.width;
  plane.image.height = plane.canvas.height;
  plane.image.getContext("2d").drawImage(plane.canvas, 0, 0);
  ring();
}

// The token that is looked at, here or in its answer.
function ring(h, v) {
  const pen = plane.canvas.getContext("2d");
  const { width, height } = plane.canvas.getBoundingClientRect();
  if (!plane.image || !width) return;
  pen.globalAlpha = 1;
  pen.clearRect(0, 0, width, height);
  pen.drawImage(plane.image, 0, 0, width, height);
  if (h == null) return;
  const scale = axes(width, height);
  pen.lineWidth = 2;
  pen.strokeStyle = css("--ink");
  pen.beginPath();
  pen.arc(scale.x(h), scale.y(v), 7, 0, 7);
  pen.stroke();
}

function nearest(event) {
  const box = plane.canvas.getBoundingClientRect();
  const scale = axes(box.width, box.height);
  const x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 14 * 14;
  for (let i = 0; i < plane.h.length; i += plane.stride) {
    const far = (scale.x(plane.h[i]) - x) ** 2 + (scale.y(plane.v[i]) - y) ** 2;
    if (far < least) { least = far; best = i; }
  }
  return best;
}

function lookAt(i) {
  plane.hot = i;
  if (i < 0) { ring(); hideTip(); return; }
  ring(plane.h[i], plane.v[i]);
  const box = plane.canvas.getBoundingClientRect(), scale = axes(box.width, box.height);
  const left = box.left + scale.x(plane.h[i]), top = box.top + scale.y(plane.v[i]);
  const card = pointCard(plane.row[i], plane.at[i]);
  showTip(card, { left: left + 12, top, bottom: top + 4 });
}

function pointCard(row, at) {
  const entry = INDEX[row];
  if (isSummary) return [el("div", "what", entry.id), facts([["mean entropy", `${number(entry.h)} nats`], ["mean varentropy", `${number(entry.v)} nats²`], ["tokens", count(entry.n)]])];
  const [c, k] = at;
  const choice = request(row).c[c];
  return [el("div", "sub", `in ${entry.id}`), ...tokenCard(choice, path(choice)[k])];
}

plane.canvas.addEventListener("pointermove", (event) => {
  plane.event ??= requestAnimationFrame(() => { lookAt(nearest(plane.last)); plane.event = null; });
  plane.last = event;
});
plane.canvas.addEventListener("pointerleave", () => { if (plane.event) cancelAnimationFrame(plane.event); plane.event = null; lookAt(-1); });
plane.canvas.addEventListener("click", (event) => { const i = nearest(event); if (i >= 0) open(plane.row[i], plane.at[i]?.[0], plane.at[i]?.[1]); });
// By keys: from point to point along the axis of entropy.
plane.canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && plane.h.length) {
    plane.order ??= plane.h.map((_, i) => i).filter((i) => i % plane.stride === 0).sort((a, b) => plane.h[a] - plane.h[b] || a - b);
    const now = plane.order.indexOf(plane.hot);
    lookAt(plane.order[(Math.max(0, now) + (now < 0 ? 0 : step) + plane.order.length) % plane.order.length]);
  } else if (event.key === "Enter" && plane.hot >= 0) open(plane.row[plane.hot], plane.at[plane.hot]?.[0], plane.at[plane.hot]?.[1]);
  else return;
  event.preventDefault();
});
plane.canvas.addEventListener("blur", () => lookAt(-1));

// Reads the answers a few milliseconds at a time, so that the page answers all the while.
function fill() {
  if (META.kind === "none") { $("plane-card").hidden = true; return; }
  let row = 0, drawn = performance.now();
  const take = (choice, c) => {
    const way = path(choice);
    way.forEach((k, at) => {
      if (choice.h[k] == null || choice.v[k] == null) return;
      plane.h.push(choice.h[k]); plane.v.push(choice.v[k]); plane.kind.push(choice.d?.[k] ?? 0);
      plane.row.push(row); plane.at.push([c, at]);
    });
  };
  const more = () => {
    const began = performance.now();
    while (row < INDEX.length && performance.now() - began < 10) {
      const entry = INDEX[row];
      if (isSummary) {
        if (entry.h != null) { plane.h.push(entry.h); plane.v.push(entry.v); plane.kind.push(0); plane.row.push(row); plane.at.push(null); }
      } else if (entry.n) {
        const from = LINES.starts[row];
        JSON.parse(LINES.text.slice(from, LINES.starts[row + 1] ?? LINES.text.length)).c.forEach((choice, c) => choice.h && take(choice, c));
      }
      row++;
    }
    const isDone = row >= INDEX.length;
    if (isDone || performance.now() - drawn > 300) { drawPlane(); drawn = performance.now(); tellPlane(isDone); }
    if (!isDone) setTimeout(more, 0);
    else document.documentElement.dataset.filled = Math.round(performance.now());
  };
  more();
}

function tellPlane(isDone) {
  const what = isSummary ? "answer" : "token";
  const n = plane.h.length;
  let text = isSummary ? `${plural(n, what)}, each at its mean` : `${plural(n, what)} of the answers, coloured by decision`;
  if (plane.stride > 1) text += `; one in ${plane.stride} is drawn`;
  if (regions.some((region) => onPlane(region) && !isPlain(region))) text += ". Hatched: also asks for more than H and V";
  if (!isDone) text += " (reading …)";
  $("plane-sub").textContent = text + ".";
  plane.canvas.setAttribute("aria-label", `${text}. Entropy to the right, varentropy up.`);
}
