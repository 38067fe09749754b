// A stack of panels over one time axis: zooming, panning, pointing, selecting, with mouse and with keys.

const GUTTER = 104, MARGIN = 16;
const SHORTEST_US = 20;

// Everything that a panel needs in order to draw: a context in CSS pixels, and the way from time to pixels and back.
class Pen {
  constructor(g, width, height, view, theme) {
    Object.assign(this, { g, width, height, theme, from: view[0], to: view[1] });
    this.left = GUTTER;
    this.right = Math.max(GUTTER + 40, width - MARGIN);
    this.scale = (this.right - this.left) / (this.to - this.from);
  }
  x(us) { return this.left + (us - this.from) * this.scale; }
  us(x) { return this.from + (x - this.left) / this.scale; }

  // Draws only between the gutter and the right margin.
  clipped(draw) {
    this.g.save();
    this.g.beginPath();
    this.g.rect(this.left, 0, this.right - this.left, this.height);
    this.g.clip();
    draw();
    this.g.restore();
  }
  label(text, y, style = {}) {
    const { g } = this;
    g.font = `${style.size || 11}px ${this.theme.sans}`;
    g.fillStyle = style.color || this.theme.soft;
    g.textAlign = "right";
    g.textBaseline = "middle";
    g.fillText(fitted(g, text, GUTTER - 20), this.left - 8, y);
  }
  text(text, x, y, style = {}) {
    const { g } = this;
    g.font = `${style.weight || ""} ${style.size || 11}px ${style.mono ? this.theme.mono : this.theme.sans}`;
    g.textAlign = style.align || "left";
    g.textBaseline = "middle";
    if (style.halo) {
      g.strokeStyle = style.halo;
      g.lineWidth = 3;
      g.lineJoin = "round";
      g.strokeText(text, x, y);
    }
    g.fillStyle = style.color || this.theme.ink;
    g.fillText(text, x, y);
  }
}

function fitted(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let short = text;
  while (short && g.measureText(short + "…").width > width) short = short.slice(0, -1);
  return short + "…";
}

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const theme = {};
  for (const name of ["paper", "surface", "sunk", "ink", "soft", "faint", "line", "strong-line", "ok", "read", "fail", "info",
    "valid", "partition", "kill", "power", "disk", "pause", "clock", "membership", "other", "shade", "phase", "focus", "sans", "mono"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
  return theme;
}

function seconds(us, step = 1) {
  const digits = Math.min(6, Math.max(0, Math.ceil(-Math.log10(step / 1e6) - 1e-9)));
  return (us / 1e6).toFixed(digits);
}

function lasting(us) {
  const trimmed = (amount) => (amount >= 20 ? Math.round(amount).toString() : String(+amount.toPrecision(3)));
  if (us >= 1e6) return `${trimmed(us / 1e6)} s`;
  if (us >= 1e3) return `${trimmed(us / 1e3)} ms`;
  return `${trimmed(us)} µs`;
}

// A round step (1, 2 or 5 times a power of ten) of which about `count` fit into `span`.
function roundStep(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough) || 10 * power;
}

function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

class Stack {
  constructor(root, run, panels, { view = run.span, marks = [], filter = null, onSelect }) {
    Object.assign(this, { root, run, panels, marks, onSelect });
    this.home = this.clamped(view);
    this.view = [...this.home];
    this.theme = readTheme();
    this.selected = -1;
    this.frame = 0;
    this.build(filter);
    this.listen();
    this.redraw();
  }

  clamped([from, to]) {
    const [first, last] = this.run.span;
    const pad = (last - first) * 0.01 + 1;
    const length = Math.min(Math.max(to - from, SHORTEST_US), last - first + 2 * pad);
    const start = Math.min(Math.max(from, first - pad), last + pad - length);
    return [start, start + length];
  }

  build(filter) {
    this.root.tabIndex = 0;
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Charts over time. Arrow keys move, plus and minus zoom, Home shows everything, N and P step through operations.");
    const button = (text, title, act) => {
      const made = node("button", { type: "button", title, "aria-label": title }, text);
      made.addEventListener("click", act);
      return made;
    };
    this.range = node("span", { class: "range", "aria-live": "polite" });
    const tools = node("div", { class: "tools" },
      button("−", "Zoom out (−)", () => this.zoom(2)),
      button("+", "Zoom in (+)", () => this.zoom(0.5)),
      button("←", "Earlier (left arrow)", () => this.pan(-0.25)),
      button("→", "Later (right arrow)", () => this.pan(0.25)),
      button("Fit", "Back to the first view (Home)", () => this.show(this.home)),
    );
    if (filter) {
      const box = node("input", { type: "checkbox" });
      box.checked = filter.on;
      box.addEventListener("change", () => { filter.set(box.checked); this.resize(); });
      tools.append(node("label", {}, box, filter.text));
    }
    tools.append(this.range, node("span", { class: "keys" }, "drag to zoom · Ctrl+wheel · ← → + − Home · N P next, previous operation"));
    this.root.append(tools);
    this.views = [];
    for (const panel of this.panels) {
      const canvas = node("canvas", {});
      const box = node("div", { class: `panel ${panel.name}` });
      if (panel.title) {
        const heading = node("h4", {}, panel.title);
        for (const [sign, text] of panel.legend || []) heading.append(node("span", { class: "legend" }, drawnSign(sign), text));
        box.append(heading);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", panel.title);
      }
      box.append(canvas);
      this.root.append(box);
      this.views.push({ panel, canvas, dirty: true, near: true });
    }
    this.crosshair = node("div", { class: "crosshair", hidden: "" });
    this.selection = node("div", { class: "selection", hidden: "" });
    this.root.append(this.crosshair, this.selection);
  }

  listen() {
    new ResizeObserver(() => { if (this.root.clientWidth !== this.drawnWidth) this.resize(); }).observe(this.root);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) this.views.find((v) => v.canvas === entry.target).near = entry.isIntersecting;
      this.schedule();
    }, { rootMargin: "200px" });
    for (const view of this.views) {
      seen.observe(view.canvas);
      this.point(view);
    }
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  point(view) {
    const { canvas, panel } = view;
    let drag = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      drag = { from: at(event)[0], moved: false };
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (drag && event.pointerType === "mouse") {
        drag.moved ||= Math.abs(x - drag.from) > 4;
        if (drag.moved) this.stretch(view, drag.from, x);
      }
      this.hover(view, x, y, event);
    });
    canvas.addEventListener("pointerup", (event) => {
      const [x, y] = at(event);
      this.selection.hidden = true;
      if (drag && drag.moved) {
        const pen = this.pen(view);
        this.show([pen.us(Math.min(x, drag.from)), pen.us(Math.max(x, drag.from))]);
      } else if (drag) {
        this.click(view, x, y);
      }
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => { drag = null; this.selection.hidden = true; });
    canvas.addEventListener("pointerleave", () => { this.crosshair.hidden = true; tooltip.hide(); });
    canvas.addEventListener("dblclick", () => this.show(this.home));
    canvas.addEventListener("wheel", (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
      if (!event.ctrlKey && !event.metaKey && !sideways) return;
      event.preventDefault();
      if (sideways && !event.ctrlKey && !event.metaKey) this.pan((event.deltaX || event.deltaY) / 800);
      else this.zoom(2 ** (event.deltaY / 200), panel.whole ? undefined : this.pen(view).us(at(event)[0]));
    }, { passive: false });
  }

  stretch(view, from, to) {
    const offset = view.canvas.getBoundingClientRect().left - this.root.getBoundingClientRect().left - this.root.clientLeft;
    this.selection.hidden = false;
    this.selection.style.left = `${offset + Math.max(GUTTER, Math.min(from, to))}px`;
    this.selection.style.width = `${Math.abs(to - from)}px`;
  }

  hover(view, x, y, event) {
    const box = this.root.getBoundingClientRect();
    const pen = this.pen(view);
    this.crosshair.hidden = x < pen.left || x > pen.right || Boolean(view.panel.whole);
    this.crosshair.style.left = `${event.clientX - box.left - this.root.clientLeft}px`;
    const told = x >= pen.left && x <= pen.right && view.panel.describe ? view.panel.describe(pen, x, y) : null;
    if (told) tooltip.show(told.text, event.clientX, event.clientY); else tooltip.hide();
  }

  click(view, x, y) {
    this.root.focus({ preventScroll: true });
    const pen = this.pen(view);
    if (view.panel.whole) {
      const half = (this.view[1] - this.view[0]) / 2;
      this.show([pen.us(x) - half, pen.us(x) + half]);
      return;
    }
    const told = view.panel.describe ? view.panel.describe(pen, x, y) : null;
    this.select(told && told.operation !== undefined ? told.operation : -1);
  }

  select(operation) {
    this.selected = operation;
    if (this.onSelect) this.onSelect(operation);
    this.redraw();
  }

  key(event) {
    if (event.target !== this.root && event.target.closest("input, button") && event.key.length > 1 && event.key !== "Home") return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 0.8 : 0.15;
    const acts = {
      ArrowLeft: () => this.pan(-far),
      ArrowRight: () => this.pan(far),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      "_": () => this.zoom(2),
      Home: () => this.show(this.home),
      Escape: () => this.select(-1),
      n: () => this.step(1),
      p: () => this.step(-1),
    };
    const act = acts[event.key] || acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // Selects the next or previous operation of the same lane; of any lane when none is selected.
  step(direction) {
    const { run } = this;
    const shown = this.panels.find((p) => p.shows);
    if (!shown || !run.count) return;
    let i = this.selected;
    if (i < 0) {
      i = firstAtLeast(run.start, this.view[0]) - (direction > 0 ? 1 : 0);
      do i += direction; while (i >= 0 && i < run.count && !shown.shows(i));
    } else {
      const lane = run.lane[i];
      do i += direction; while (i >= 0 && i < run.count && (run.lane[i] !== lane || !shown.shows(i)));
    }
    if (i < 0 || i >= run.count) return;
    const [from, to] = this.view;
    if (run.start[i] < from || run.start[i] > to) {
      const half = (to - from) / 2;
      this.view = this.clamped([run.start[i] - half, run.start[i] + half]);
    }
    this.select(i);
  }

  pan(share) {
    const by = (this.view[1] - this.view[0]) * share;
    this.show([this.view[0] + by, this.view[1] + by]);
  }

  zoom(factor, around = (this.view[0] + this.view[1]) / 2) {
    this.show([around - (around - this.view[0]) * factor, around + (this.view[1] - around) * factor]);
  }

  show(view) {
    this.view = this.clamped(view);
    tooltip.hide();
    this.redraw();
  }

  resize() {
    for (const view of this.views) view.width = 0;
    this.redraw();
  }

  redraw() {
    const [from, to] = this.view;
    const step = (to - from) / 1000;
    this.range.textContent = `${seconds(from, step)} to ${seconds(to, step)} s (${lasting(to - from)})`;
    for (const view of this.views) view.dirty = true;
    this.schedule();
  }

  schedule() {
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(false); });
  }

  draw(everything) {
    this.drawnWidth = this.root.clientWidth;
    for (const view of this.views) {
      if (!view.dirty || !(view.near || everything)) continue;
      view.dirty = false;
      this.size(view);
      const pen = this.pen(view);
      pen.g.clearRect(0, 0, pen.width, pen.height);
      if (!view.panel.whole) this.backdrop(pen, view.panel);
      view.panel.draw(pen, this);
      if (!view.panel.whole) this.foreground(pen, view.panel);
    }
  }

  size(view) {
    const width = view.canvas.clientWidth || this.root.clientWidth;
    const height = view.panel.height();
    const ratio = window.devicePixelRatio || 1;
    if (view.width === width && view.height === height && view.ratio === ratio) return;
    Object.assign(view, { width, height, ratio });
    view.canvas.style.height = `${height}px`;
    view.canvas.width = Math.round(width * ratio);
    view.canvas.height = Math.round(height * ratio);
    view.canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  pen(view) {
    const shown = view.panel.whole ? this.clamped(this.run.span) : this.view;
    return new Pen(view.canvas.getContext("2d"), view.width, view.height, shown, this.theme);
  }

  // Phases and faults, faintly, behind everything; then the lines of the time axis.
  backdrop(pen, panel) {
    const { g, theme } = pen;
    pen.clipped(() => {
      for (const [name, from, to] of this.run.phases) {
        if (name === "safety" || to < pen.from || from > pen.to) continue;
        g.fillStyle = theme.phase;
        g.fillRect(pen.x(from), 0, (to - from) * pen.scale, pen.height);
      }
      if (!panel.ownFaults) {
        g.fillStyle = theme.shade;
        for (const band of this.run.bands) {
          const to = band.to === null ? this.run.span[1] : band.to;
          if (to < pen.from || band.from > pen.to) continue;
          g.fillRect(pen.x(band.from), 0, Math.max(1, (to - band.from) * pen.scale), pen.height);
        }
      }
      const step = roundStep(pen.to - pen.from, (pen.right - pen.left) / 110);
      g.fillStyle = theme.line;
      for (let us = Math.ceil(pen.from / step) * step; us <= pen.to; us += step) g.fillRect(Math.round(pen.x(us)), 0, 1, pen.height);
      g.fillStyle = theme["strong-line"];
      for (const [, from] of this.run.phases) {
        if (from > pen.from && from < pen.to) g.fillRect(Math.round(pen.x(from)), 0, 1, pen.height);
      }
    });
  }

  foreground(pen, panel) {
    if (panel.name === "axis") return;
    pen.clipped(() => {
      pen.g.strokeStyle = pen.theme.ink;
      pen.g.globalAlpha = 0.45;
      pen.g.lineWidth = 1;
      pen.g.setLineDash([2, 3]);
      pen.g.beginPath();
      for (const mark of this.marks) {
        const x = Math.round(pen.x(mark.at)) + 0.5;
        pen.g.moveTo(x, 0);
        pen.g.lineTo(x, pen.height);
      }
      pen.g.stroke();
      pen.g.setLineDash([]);
      pen.g.globalAlpha = 1;
    });
  }

  retheme() {
    this.theme = readTheme();
    this.redraw();
  }
}

const tooltip = {
  box: null,
  show(text, x, y) {
    this.box ||= document.body.appendChild(node("div", { class: "tooltip", role: "status" }));
    this.box.hidden = false;
    this.box.textContent = text;
    const { width, height } = this.box.getBoundingClientRect();
    this.box.style.left = `${x + 16 + width > innerWidth ? Math.max(4, x - 16 - width) : x + 16}px`;
    this.box.style.top = `${y + 16 + height > innerHeight ? Math.max(4, y - 16 - height) : y + 16}px`;
  },
  hide() { if (this.box) this.box.hidden = true; },
};
