// The branches of an answer: what was tried at a place, what it scored, what went on, what it cost.

function trees(choice) {
  const box = el("section", "trees", el("h3", "", `${plural(choice.e.length, "place")} where the answer forked or went back`));
  choice.e.forEach((event, e) => box.append(tree(choice, event, e)));
  return box;
}

function tree(choice, event, e) {
  const cost = event.x == null ? "" : `, ${plural(event.x, "token")} thrown away`;
  const where = `at token ${count(event.at + 1)}${event.gone ? " of a line that was given up" : ""}`;
  const what = event.l ? `${plural(event.l.length, "line")}` : `${plural(event.i.length, "token")} taken back`;
  const region = event.g == null ? "" : ` · region ${META.regions[event.g]}`;
  const made = el("details", `tree k-${event.k}`, el("summary", "", icon(event.k), el("b", "", words(event.k)), el("span", "", ` ${where} · ${what}${cost}${region}`)));
  made.id = "tree" + e;
  // Built when it is opened for the first time.
  made.addEventListener("toggle", () => {
    if (!made.open || made.childElementCount > 1) return;
    const stem = event.before?.length ? "…" + shown(choice, event.before).join("") : "";
    if (stem) made.append(el("div", "stem", stem));
    if (event.l) event.l.forEach((limb) => made.append(drawLimb(choice, event, limb)));
    else made.append(drawLimb(choice, event, { i: event.i }));
  });
  return made;
}

function drawLimb(choice, event, limb) {
  const verdict = el("div", "verdict");
  if (event.l) {
    verdict.append(el("b", "", limb.w ? "goes on" : event.open ? "not decided" : "ends"), el("span", "", limb.b === event.p ? `line ${limb.b}, the parent` : `line ${limb.b}`));
    if (limb.s != null) {
      const scores = event.l.map((other) => other.s).filter((s) => s != null);
      const least = Math.min(...scores), most = Math.max(...scores);
      const bar = el("i");
      bar.style.width = (most > least ? 12 + (88 * (limb.s - least)) / (most - least) : 100) + "%";
      verdict.append(el("span", "", `score ${number(limb.s)}`), el("div", "meter", bar));
    } else verdict.append(el("span", "", "no score"));
    verdict.append(el("span", "", plural(limb.i.length, "token")));
  } else verdict.append(el("b", "", "taken back"));
  const text = el("div", "text");
  const texts = choice.t ? shown(choice, limb.i) : [];
  limb.i.slice(0, PIECE).forEach((k, i) => text.append(token(choice, k, texts[i] ?? "")));
  if (limb.i.length > PIECE) text.append(el("span", "none", ` … ${plural(limb.i.length - PIECE, "more token")}`));
  if (!limb.i.length) text.append(el("span", "none", "no tokens of its own"));
  return el("div", `limb k-${event.k} ${limb.w ? "won" : "lost"}`, verdict, text);
}
