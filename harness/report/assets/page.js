// Brings the page to life: charts where there is room for them, copy buttons, the card of one operation.

function card(run) {
  const box = node("aside", { class: "details", "aria-label": "One operation", "aria-live": "polite" });
  box.hidden = true;
  document.body.append(box);
  return (i) => {
    box.hidden = i < 0;
    if (i < 0) return;
    const close = node("button", { type: "button" }, "Close (Esc)");
    close.addEventListener("click", () => { box.hidden = true; });
    const texts = run.texts(i);
    const rows = [
      ["outcome", TYPE_NAMES[run.type[i]]],
      ["error", run.words.error[run.error[i]]],
      ["process", String(run.process(i))],
      ["node", run.words.node[run.node[i]]],
      ["key", run.words.key[run.key[i]]],
      ["asked", texts && texts.asked],
      ["answer", texts && texts.answer],
      ["meta", texts && texts.meta],
      ["invoked at", `${seconds(run.start[i], run.exact ? 1 : 1000)} s`],
      ["took", run.type[i] === OPEN ? "never ended" : `${run.exact ? "" : "about "}${lasting(run.took[i])}`],
      ["event", run.line ? `${run.line[i]}, counted from 0 after the header of history.jsonl` : null],
      ["", texts ? null : "values of this operation are in history.jsonl only"],
    ];
    const list = node("dl", {});
    for (const [name, value] of rows) if (value) list.append(node("dt", {}, name), node("dd", {}, value));
    box.replaceChildren(node("header", {}, node("strong", {}, run.words.f[run.f[i]]), close), list);
  };
}

function wholeRun(root, run, onSelect) {
  const panels = [overviewPanel(run), axisPanel(run)];
  if (run.bands.length || run.marks.length) panels.push(faultsPanel(run));
  panels.push(operationsPanel(run), latencyPanel(run), throughputPanel(run));
  if (Object.keys(run.hints).length) panels.push(hintsPanel(run));
  if (run.agreement) panels.push(agreementPanel(run));
  if (run.siblings.some((s) => s > 0)) panels.push(siblingsPanel(run));
  for (const chart of run.metrics) panels.push(metricPanel(run, chart));
  return new Stack(root, run, panels, { onSelect });
}

function aroundWitness(root, run, anomaly, onSelect) {
  const marks = anomaly.operations.map((o) => ({ ...o, position: run.line ? run.line.indexOf(o.line) : -1 }));
  const operations = operationsPanel(run, { lanes: marks.map((m) => m.lane), key: anomaly.key, marked: marks });
  operations.window = anomaly.window;
  operations.choose(anomaly.key !== null);
  const panels = [axisPanel(run)];
  if (run.bands.length || run.marks.length) panels.push(faultsPanel(run));
  panels.push(operations);
  const filter = anomaly.key === null ? null : { text: `only key ${anomaly.key}`, on: true, set: (on) => operations.choose(on) };
  return new Stack(root, run, panels, { view: anomaly.window, marks, filter, onSelect });
}

function copyButtons() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        // Pages from files may be refused the clipboard: leave the text selected for the user's own copy.
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
}

// A link into a folded part opens it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}

async function main() {
  copyButtons();
  addEventListener("hashchange", unfold);
  const roots = [...document.querySelectorAll("[data-stack]")];
  if (!roots.length) return unfold();
  let run;
  try {
    run = await readRun(document.getElementById("data").textContent);
  } catch (problem) {
    const said = "DecompressionStream" in globalThis ? `The charts' data cannot be read: ${problem.message}` : "The charts need a newer browser (one with DecompressionStream).";
    for (const root of roots) root.replaceWith(node("p", { class: "notice" }, said));
    return unfold();
  }
  const showCard = card(run);
  const stacks = [];
  for (const root of roots) {
    const make = () => {
      if (root.dataset.made) return;
      root.dataset.made = "yes";
      const which = root.dataset.stack;
      stacks.push(which === "run" ? wholeRun(root, run, showCard) : aroundWitness(root, run, run.anomalies[Number(which)], showCard));
    };
    const folded = root.closest("details.anomaly");
    if (folded && !folded.open) folded.addEventListener("toggle", make); else make();
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") showCard(-1); });
  const retheme = () => { woven.clear(); stacks.forEach((s) => s.retheme()); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);
  addEventListener("beforeprint", () => { retheme(); stacks.forEach((s) => s.draw(true)); });
  addEventListener("afterprint", retheme);
  unfold();
}

main();
