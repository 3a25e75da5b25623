// Entropy and varentropy along an answer, with the places where the policy did something out of the ordinary.

function timeline(choice, way) {
  const canvas = el("canvas");
  canvas.setAttribute("role", "img");
  const n = way.length;
  const most = way.reduce((most, k) => Math.max(most, choice.h[k] ?? 0, Math.sqrt(choice.v[k] ?? 0)), 1) * 1.06;
  canvas.setAttribute("aria-label", `Entropy of ${plural(n, "token")}, highest ${number(way.reduce((m, k) => Math.max(m, choice.h[k] ?? 0), 0), 2)} nats. The same numbers are with each token of the text.`);
  const legend = el("p", "sub");
  const box = el("div", "line", canvas, legend);
  const place = { left: 30, top: 16, bottom: 14 };
  let columns = 1;

  function paint(marked) {
    const { pen, width, height } = ready(canvas);
    const wide = width - place.left - 2, base = height - place.bottom, up = base - place.top;
    const per = Math.max(1, Math.ceil(n / wide));
    columns = Math.ceil(n / per);
    const step = Math.min(14, wide / columns);
    pen.fillStyle = css("--faint");
    pen.strokeStyle = css("--line");
    pen.textAlign = "right";
    for (const tick of [1, 2, 4, 8].filter((tick) => tick < most)) {
      const y = base - (up * tick) / most;
      pen.beginPath();
      pen.moveTo(place.left, Math.round(y) + 0.5);
      pen.lineTo(place.left + wide, Math.round(y) + 0.5);
      pen.stroke();
      pen.fillText(String(tick), place.left - 6, y + 4);
    }
    const value = (column, of) => way.slice(column * per, (column + 1) * per).reduce((m, k) => Math.max(m, of(k) ?? 0), 0);
    const ink = css("--faint");
    for (let i = 0; i < columns; i++) {
      const h = value(i, (k) => choice.h[k]), x = place.left + i * step;
      const tall = Math.max(1, (up * h) / most);
      pen.fillStyle = ink;
      pen.globalAlpha = 0.28;
      pen.fillRect(x, base - tall, Math.max(0.7, step - (step > 3 ? 1 : 0)), tall);
      pen.globalAlpha = 1;
      pen.fillStyle = heat(h);
      pen.fillRect(x, base - tall, Math.max(0.7, step - (step > 3 ? 1 : 0)), tall);
    }
    pen.strokeStyle = colour("inject");
    pen.lineWidth = 1.3;
    pen.globalAlpha = 0.75;
    pen.beginPath();
    for (let i = 0; i < columns; i++) {
      const y = base - (up * Math.sqrt(value(i, (k) => choice.v[k]))) / most;
      pen.lineTo(place.left + (i + 0.5) * step, y);
    }
    pen.stroke();
    pen.globalAlpha = 1;
    const at = (i) => place.left + (Math.floor(i / per) + 0.5) * step;
    const flag = (kind, i) => {
      pen.strokeStyle = pen.fillStyle = colour(kind);
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.moveTo(at(i), place.top - 6);
      pen.lineTo(at(i), base);
      pen.globalAlpha = 0.4;
      pen.stroke();
      pen.globalAlpha = 1;
      pen.beginPath();
      pen.arc(at(i), place.top - 7, 4, 0, 7);
      pen.fill();
    };
    way.forEach((k, i) => { if (KINDS[choice.d?.[k]] === "inject") flag("inject", i); });
    (choice.e ?? []).forEach((event) => !event.gone && flag(event.k, Math.min(event.at, n - 1)));
    if (marked != null) {
      pen.strokeStyle = css("--ink");
      pen.lineWidth = 1.5;
      pen.strokeRect(at(marked) - Math.max(3, step / 2 + 1), place.top, Math.max(6, step + 2), base - place.top);
    }
    legend.textContent = "bars: H in nats · line: √V in nats" + (per > 1 ? ` · a bar is the highest of ${per} tokens` : "");
    canvas.at = (event) => {
      const x = event.clientX - canvas.getBoundingClientRect().left - place.left;
      const column = Math.floor(x / step);
      return column < 0 || column >= columns ? null : Math.min(n - 1, column * per);
    };
  }

  const look = (event) => {
    const i = canvas.at?.(event);
    view.spans.forEach((span) => span.classList.remove("on"));
    if (i == null) { untell(); return; }
    paint(i);
    view.spans[i]?.classList.add("on");
    ring(choice.h[way[i]], choice.v[way[i]]);
    const box = canvas.getBoundingClientRect();
    showTip(tokenCard(choice, way[i]), { left: event.clientX + 14, top: box.top, bottom: box.bottom });
  };
  canvas.addEventListener("pointermove", look);
  canvas.addEventListener("pointerleave", () => { view.spans.forEach((span) => span.classList.remove("on")); untell(); });
  canvas.addEventListener("click", (event) => { const i = canvas.at?.(event); if (i != null) open(view.row, view.c, i); });
  view.line = { draw: () => paint(null), mark: paint };
  return box;
}
