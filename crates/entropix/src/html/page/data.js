// The answers, one line of JSON each, read when they are wanted.

const LINES = (() => {
  const text = $("data").textContent;
  const starts = [];
  for (let at = text.indexOf("\n"); at >= 0 && at + 1 < text.length; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return { text, starts };
})();

const kept = new Map();
function request(i) {
  let found = kept.get(i);
  if (!found) {
    const from = LINES.starts[i];
    const to = LINES.starts[i + 1] ?? LINES.text.length;
    found = JSON.parse(LINES.text.slice(from, to));
    kept.set(i, found);
    // The last few dozen are kept.
    if (kept.size > 40) kept.delete(kept.keys().next().value);
  }
  return found;
}

// The tokens of an answer, as places in the columns of all that was computed.
const path = (choice) => choice.w ?? Array.from({ length: choice.h?.length ?? 0 }, (_, k) => k);

// What to show for each token: a character whose bytes are spread over several tokens stands at the last of them.
function shown(choice, tokens) {
  const decoder = new TextDecoder(), encoder = new TextEncoder();
  let open = false;
  return tokens.map((k) => {
    const bytes = choice.b?.[k];
    if (!bytes && !open) return choice.t[k];
    const text = decoder.decode(bytes ? new Uint8Array(bytes) : encoder.encode(choice.t[k]), { stream: true });
    open = text === "" || (bytes && bytes[bytes.length - 1] > 127 && open);
    return text;
  });
}
