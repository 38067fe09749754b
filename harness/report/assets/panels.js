// The panels: what is drawn over time. Each shape says by itself what its colour says too.

const SVG = "http://www.w3.org/2000/svg";
const WEAVES = {
  partition: "M-2 2 L2 -2 M0 8 L8 0 M6 10 L10 6",
  kill: "M0 0 L8 8 M8 0 L0 8",
  power: "M0 4 H8 M4 0 V8",
  disk: "M1 1 L5 5 M5 7 L7 5",
  pause: "M2 0 V8 M6 0 V8",
  clock: "M0 2 H8 M0 6 H8",
  membership: "M4 1 L7 4 L4 7 L1 4 z",
  other: "M4 3 V5",
};
const SIGNS = {
  ok: [["rect", { x: 1, y: 1.5, width: 16, height: 7, class: "fill-ok" }]],
  read: [["rect", { x: 1, y: 1.5, width: 16, height: 7, class: "fill-read" }]],
  fail: [["rect", { x: 1.5, y: 1.5, width: 15, height: 7, class: "line-fail" }]],
  info: [["path", { d: "M17 1.5 H1.5 V8.5 H17", class: "line-info" }], ["path", { d: "M4 8 L10 2 M9 8 L15 2", class: "line-info" }]],
  dot: [["circle", { cx: 9, cy: 5, r: 3, class: "fill-ok" }]],
  cross: [["path", { d: "M5.5 1.5 L12.5 8.5 M12.5 1.5 L5.5 8.5", class: "line-fail" }]],
  triangle: [["path", { d: "M9 1.5 L13 8.5 H5 Z", class: "line-info" }]],
  line: [["path", { d: "M0 5 H18", class: "line-ink" }]],
  dashes: [["path", { d: "M0 5 H18", class: "line-ink", "stroke-dasharray": "4 2.5" }]],
  dots: [["path", { d: "M0 5 H18", class: "line-ink", "stroke-dasharray": "1.5 2.5" }]],
  thin: [["path", { d: "M0 5 H18", class: "line-soft" }]],
  limit: [["path", { d: "M0 5 H18", class: "line-fail", "stroke-dasharray": "7 4" }]],
  tick: [["path", { d: "M4 8 V4 M9 8 V4 M14 8 V4", class: "line-fail" }]],
  step: [["rect", { x: 1, y: 2, width: 16, height: 7, class: "fill-read" }], ["path", { d: "M1 2 H17", class: "line-ok" }]],
  weave: [["rect", { x: 1, y: 1, width: 16, height: 8, class: "line-fail" }], ["path", { d: "M2 8 L7 2 M7 8 L12 2 M12 8 L16 3 M3 2 L8 8 M8 2 L13 8", class: "line-fail" }]],
  unverified: [["rect", { x: 1, y: 1, width: 16, height: 8, class: "line-ink", "stroke-dasharray": "3 2" }]],
  gap: [["path", { d: "M1 8.5 H18", class: "line-soft", "stroke-dasharray": "1 3" }]],
};

function drawnSign(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 18 10");
  svg.setAttribute("aria-hidden", "true");
  for (const [tag, attributes] of SIGNS[name]) {
    const shape = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    svg.append(shape);
  }
  return svg;
}

const woven = new Map();
function weave(name, color, lines = WEAVES[name]) {
  const ratio = window.devicePixelRatio || 1;
  const id = `${name} ${color} ${ratio}`;
  if (!woven.has(id)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = Math.round(8 * ratio);
    const g = tile.getContext("2d");
    g.scale(tile.width / 8, tile.height / 8);
    g.strokeStyle = color;
    g.lineWidth = 1.1;
    g.stroke(new Path2D(lines));
    const pattern = g.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(8 / tile.width));
    woven.set(id, pattern);
  }
  return woven.get(id);
}

const isRead = (run, i) => run.words.f[run.f[i]] === "get" || run.words.f[run.f[i]] === "read";

function sentenceOf(run, i) {
  const f = run.words.f[run.f[i]], key = run.words.key[run.key[i]], texts = run.texts(i);
  const parts = [f];
  if (key !== null) parts.push(key);
  if (texts && texts.asked) parts.push(texts.asked);
  if (texts && texts.answer && isRead(run, i)) parts.push("→", texts.answer);
  return parts.join(" ");
}

function describeOperation(run, i) {
  const error = run.words.error[run.error[i]];
  const where = run.words.node[run.node[i]];
  return `${sentenceOf(run, i)}\n${TYPE_NAMES[run.type[i]]}${error ? `: ${error}` : ""}\n`
    + `process ${run.process(i)}${where ? ` via ${where}` : ""}, at ${seconds(run.start[i], 1)} s, ${run.type[i] === OPEN ? "never ended" : `took ${lasting(run.took[i])}`}`;
}

function axisPanel(run) {
  return {
    name: "axis",
    height: () => 34,
    draw(pen, stack) {
      const step = roundStep(pen.to - pen.from, (pen.right - pen.left) / 110);
      pen.label("seconds", 23);
      for (let us = Math.ceil(pen.from / step) * step; us <= pen.to; us += step) {
        const x = pen.x(us);
        if (x >= pen.left - 1) pen.text(seconds(us, step), x, 23, { align: x < pen.left + 14 ? "left" : "center", color: pen.theme.soft });
      }
      pen.clipped(() => {
        for (const [name, from, to] of run.phases) {
          const x = Math.max(pen.left, pen.x(from)), room = Math.min(pen.right, pen.x(to)) - x;
          pen.g.font = `10px ${pen.theme.sans}`;
          const wide = pen.g.measureText(name).width;
          const covered = stack.marks.some((mark) => Math.abs(pen.x(mark.at) - x - 4 - wide / 2) < wide / 2 + 10);
          if (room > wide + 8 && !covered) pen.text(name, x + 4, 8, { size: 10, color: pen.theme.faint });
        }
        let free = -Infinity;
        for (const mark of stack.marks) {
          // One that lies beyond the edge waits there, hollow.
          const inside = mark.at >= pen.from && mark.at <= pen.to;
          const x = Math.max(Math.min(Math.max(pen.x(mark.at), pen.left + 8), pen.right - 8), free);
          pen.g.fillStyle = inside ? pen.theme.ink : pen.theme.surface;
          pen.g.strokeStyle = pen.theme.ink;
          pen.g.beginPath();
          pen.g.arc(x, 9, 7.5, 0, 7);
          pen.g.fill();
          pen.g.stroke();
          pen.text(String(mark.number), x, 9.5, { align: "center", size: 10, weight: 700, color: inside ? pen.theme.surface : pen.theme.ink });
          free = x + 17;
        }
      });
    },
    describe: (pen, x) => ({ text: `${seconds(pen.us(x), (pen.to - pen.from) / 1000)} s` }),
  };
}

// Everything at a glance, with a frame around what the other panels show.
function overviewPanel(run) {
  let counted = { columns: 0 };

  function count(pen) {
    const columns = Math.max(1, Math.floor((pen.right - pen.left) / 2));
    if (counted.columns === columns) return counted;
    const good = new Uint32Array(columns), bad = new Uint32Array(columns);
    const each = columns / (pen.to - pen.from);
    for (let i = 0; i < run.count; i++) {
      if (run.depth[i]) continue;
      const c = Math.min(columns - 1, Math.max(0, ((run.start[i] - pen.from) * each) | 0));
      if (run.type[i] === OK) good[c]++; else bad[c]++;
    }
    let most = 1;
    for (let c = 0; c < columns; c++) most = Math.max(most, good[c] + bad[c]);
    return (counted = { columns, good, bad, most });
  }

  return {
    name: "overview",
    title: "Overview",
    legend: [["read", "operations"], ["tick", "some of them not ok"]],
    whole: true,
    height: () => 46,
    draw(pen, stack) {
      const { g, theme } = pen;
      const { columns, good, bad, most } = count(pen);
      for (let c = 0; c < columns; c++) {
        const up = (34 * good[c]) / most, down = (34 * bad[c]) / most;
        g.fillStyle = theme.read;
        g.fillRect(pen.left + 2 * c, 38 - up, 2, up);
        g.fillStyle = theme.fail;
        g.fillRect(pen.left + 2 * c, 38 - up - down, 2, down);
        if (!bad[c]) continue;
        g.globalAlpha = 0.25 + 0.75 * Math.sqrt(bad[c] / (good[c] + bad[c]));
        g.fillRect(pen.left + 2 * c, 41, 2, 3);
        g.globalAlpha = 1;
      }
      const from = Math.max(pen.left, pen.x(stack.view[0])), to = Math.min(pen.right, pen.x(stack.view[1]));
      g.fillStyle = theme.surface;
      g.globalAlpha = 0.65;
      g.fillRect(pen.left, 0, from - pen.left, pen.height);
      g.fillRect(to, 0, pen.right - to, pen.height);
      g.globalAlpha = 1;
      g.strokeStyle = theme.focus;
      g.lineWidth = 1.5;
      g.strokeRect(from, 0.75, Math.max(2, to - from), pen.height - 1.5);
    },
    describe: (pen, x) => ({ text: `${seconds(pen.us(x), (pen.to - pen.from) / 1000)} s` }),
  };
}

// Which node suffered what. Processes, links, clocks and the ring have a track of their own in each node's row.
function faultsPanel(run) {
  const trackOf = { kill: "process", power: "process", disk: "process", pause: "process", partition: "links", clock: "clock", membership: "ring", other: "other" };
  const tracks = ["process", "links", "clock", "ring"].filter((t) => run.bands.some((b) => trackOf[b.family] === t));
  const whole = run.bands.some((b) => !Object.keys(b.notes).length) || run.marks.length;
  const hit = [...new Set([...run.nodes, ...run.bands.flatMap((b) => Object.keys(b.notes))])];
  const rows = [...hit, ...(whole ? ["other"] : [])];
  const track = 14;
  const rowHeight = Math.max(1, tracks.length) * track + 7;

  function placed(pen) {
    const found = [];
    for (const band of run.bands) {
      const to = band.to === null ? run.span[1] : band.to;
      if (to < pen.from || band.from > pen.to) continue;
      const notes = Object.entries(band.notes);
      for (const [name, note] of notes.length ? notes : [["other", band.label]]) {
        const lane = Math.max(0, tracks.indexOf(trackOf[band.family]));
        const x = pen.x(band.from);
        found.push({ band, note, x, width: Math.max(2, pen.x(to) - x), y: rows.indexOf(name) * rowHeight + 4 + lane * track });
      }
    }
    return found;
  }

  return {
    name: "faults",
    title: "Faults by node",
    legend: run.bands.some((b) => !b.verified) ? [["unverified", "not verified: nobody saw it bite"]] : [],
    ownFaults: true,
    height: () => Math.max(1, rows.length) * rowHeight + 4,
    draw(pen) {
      const { g, theme } = pen;
      rows.forEach((name, row) => {
        pen.label(name, row * rowHeight + rowHeight / 2, { color: theme.ink });
        g.fillStyle = theme.line;
        g.fillRect(pen.left, row * rowHeight, pen.right - pen.left, 1);
      });
      pen.clipped(() => {
        for (const { band, note, x, width, y } of placed(pen)) {
          const color = theme[band.family];
          const height = track - 2;
          g.fillStyle = theme.surface;
          g.fillRect(x, y, width, height);
          if (band.verified) {
            g.fillStyle = color;
            g.globalAlpha = 0.14;
            g.fillRect(x, y, width, height);
            g.globalAlpha = 0.75;
            g.fillStyle = weave(band.family, color);
            g.fillRect(x, y, width, height);
            g.globalAlpha = 1;
          }
          g.strokeStyle = color;
          g.lineWidth = 1;
          g.setLineDash(band.verified ? [] : [3, 3]);
          g.strokeRect(x + 0.5, y + 0.5, Math.max(1, width - 1), height - 1);
          g.setLineDash([]);
          const start = Math.max(x, pen.left), room = Math.min(x + width, pen.right) - start - 8;
          if (room < 26) continue;
          g.font = `10px ${theme.sans}`;
          const words = fitted(g, band.verified ? note : `? ${note}`, room);
          const wide = g.measureText(words).width;
          g.fillStyle = theme.surface;
          g.globalAlpha = 0.88;
          g.fillRect(start + 2, y + 1.5, wide + 5, height - 3);
          g.globalAlpha = 1;
          pen.text(words, start + 4, y + height / 2 + 0.5, { size: 10 });
        }
        g.fillStyle = theme.other;
        for (const [us] of run.marks) {
          if (us < pen.from || us > pen.to) continue;
          const x = pen.x(us), y = (rows.length - 0.5) * rowHeight;
          g.beginPath();
          g.moveTo(x, y - 5); g.lineTo(x + 4, y); g.lineTo(x, y + 5); g.lineTo(x - 4, y);
          g.fill();
        }
      });
    },
    describe(pen, x, y) {
      const mark = run.marks.find(([us]) => Math.abs(pen.x(us) - x) < 5 && y > (rows.length - 1) * rowHeight);
      if (mark) return { text: `${mark[1]}\nat ${seconds(mark[0], 1000)} s` };
      const found = placed(pen).find((p) => x >= p.x - 2 && x <= p.x + p.width + 2 && y >= p.y - 1 && y <= p.y + track);
      if (!found) return null;
      const { band, note } = found;
      const until = band.to === null ? "never healed" : `${seconds(band.to, 1000)} s (${lasting(band.to - band.from)})`;
      return { text: `${note}\n${band.label}\n${seconds(band.from, 1000)} to ${until}${band.verified ? "" : "\nnot verified"}` };
    },
  };
}

// Operations in the lane of their process: one by one where there is room, else how many there were and the worst of them.
function operationsPanel(run, { lanes = null, key = null, marked = [] } = {}) {
  const panel = {
    name: "operations",
    title: "Operations by process",
    legend: [["ok", "ok"], ["read", "ok, a read"], ["fail", "fail: did not happen"], ["info", "info: nobody knows"]],
    key,
    shows: (i) => panel.rowOf[run.lane[i]] >= 0 && (panel.key === null || run.words.key[run.key[i]] === panel.key),
    choose(filtered) {
      panel.key = filtered ? key : null;
      const wanted = new Set(lanes || run.lanes.keys());
      if (filtered && key !== null) {
        const code = run.words.key.indexOf(key);
        const [a, b] = run.touching(...panel.window);
        for (let i = a; i < b; i++) if (run.key[i] === code) wanted.add(run.lane[i]);
      } else if (panel.window) {
        for (let lane = 0; lane < run.lanes.length; lane++) wanted.add(lane);
      }
      panel.lanes = [...wanted].filter((l) => l !== null && l !== undefined).sort((a, b) => a - b);
      panel.rowOf = new Int32Array(run.lanes.length).fill(-1);
      panel.lanes.forEach((lane, row) => { panel.rowOf[lane] = row; });
    },
    laneHeight: () => Math.max(5, Math.min(run.nested ? 24 : 18, Math.floor(900 / Math.max(1, panel.lanes.length)))),
    height: () => Math.max(1, panel.lanes.length) * panel.laneHeight() + 6,
    draw(pen, stack) {
      const high = panel.laneHeight();
      const every = Math.ceil(12 / high);
      panel.lanes.forEach((lane, row) => {
        if (row % every === 0) pen.label(run.lanes[lane], row * high + high / 2);
        pen.g.fillStyle = pen.theme.line;
        if (high >= 9) pen.g.fillRect(pen.left, row * high + high - 0.5, pen.right - pen.left, 0.5);
      });
      const [a, b] = run.touching(pen.from, pen.to);
      let count = 0;
      for (let i = a; i < b; i++) if (run.depth[i] === 0 && run.end[i] >= pen.from && panel.shows(i)) count++;
      pen.clipped(() => {
        if (count > (panel.lanes.length * (pen.right - pen.left)) / 3) panel.drawDense(pen, a, b, high);
        else panel.drawEach(pen, a, b, high, stack.selected);
      });
    },

    // A column's height is the root of the number of operations that began in it, parted as they ended. The worst of
    // them has a tick above, as long as it lasted: tall for fail, short for info, paler the smaller its share, so that
    // a few failures among many operations show, but do not look like most of them.
    drawDense(pen, a, b, high) {
      const { g, theme } = pen;
      const each = 3, columns = Math.ceil((pen.right - pen.left) / each), cells = panel.lanes.length * columns;
      const counts = [new Uint32Array(cells), new Uint32Array(cells), new Uint32Array(cells)];
      const worst = new Uint8Array(cells);
      const per = columns / (pen.to - pen.from);
      for (let i = a; i < b; i++) {
        const row = panel.rowOf[run.lane[i]];
        if (run.depth[i] || row < 0 || (panel.key !== null && run.words.key[run.key[i]] !== panel.key)) continue;
        const type = Math.min(INFO, run.type[i]);
        const c = Math.floor((run.start[i] - pen.from) * per);
        if (c >= 0 && c < columns) counts[type][row * columns + c]++;
        if (type === OK) continue;
        const last = Math.min(columns - 1, Math.floor((run.end[i] - pen.from) * per));
        const rank = type === FAIL ? 2 : 1;
        for (let k = Math.max(0, c); k <= last; k++) if (worst[row * columns + k] < rank) worst[row * columns + k] = rank;
      }
      let most = 1;
      for (let k = 0; k < cells; k++) most = Math.max(most, counts[0][k] + counts[1][k] + counts[2][k]);
      const strip = high >= 12 ? 3 : 2, body = high - strip - 2;
      const colors = [theme.ok, theme.fail, theme.info];
      for (let row = 0; row < panel.lanes.length; row++) {
        for (let c = 0; c < columns; c++) {
          const k = row * columns + c, x = pen.left + c * each;
          const sum = counts[0][k] + counts[1][k] + counts[2][k];
          const tall = body * Math.sqrt(sum / most);
          let y = (row + 1) * high - 1;
          for (let type = OK; type <= INFO && sum; type++) {
            const part = (tall * counts[type][k]) / sum;
            g.fillStyle = colors[type];
            g.fillRect(x, y - part, each - 0.5, part);
            y -= part;
          }
          if (!worst[k]) continue;
          const fail = worst[k] === 2, share = sum ? counts[fail ? FAIL : INFO][k] / sum : 1;
          g.globalAlpha = 0.25 + 0.75 * Math.sqrt(share);
          g.fillStyle = fail ? theme.fail : theme.info;
          g.fillRect(x, row * high + 1 + (fail ? 0 : strip / 2), each - 0.5, fail ? strip : strip / 2);
          g.globalAlpha = 1;
        }
      }
      panel.dense = true;
    },

    drawEach(pen, a, b, high, selected) {
      panel.dense = false;
      // ok first: where marks touch, the rarer and worse one stays visible.
      for (const type of [OK, INFO, FAIL]) {
        for (let i = a; i < b; i++) {
          const kind = Math.min(INFO, run.type[i]);
          if (kind !== type || run.end[i] < pen.from || !panel.shows(i)) continue;
          panel.bar(pen, i, high);
        }
      }
      if (b - a < 1500) panel.drawNames(pen, a, b, high);
      for (const mark of marked) {
        if (mark.position < 0) continue;
        const [x, y, width, height] = panel.box(pen, mark.position, high);
        pen.g.strokeStyle = pen.theme.ink;
        pen.g.lineWidth = 2;
        pen.g.strokeRect(x - 2, y - 2, Math.max(4, width) + 4, height + 4);
      }
      if (selected >= 0 && panel.shows(selected)) {
        const [x, y, width, height] = panel.box(pen, selected, high);
        pen.g.strokeStyle = pen.theme.focus;
        pen.g.lineWidth = 2;
        pen.g.strokeRect(x - 2, y - 2, Math.max(4, width) + 4, height + 4);
      }
    },

    // What an operation was, behind its bar, where nothing else begins before the words end.
    drawNames(pen, a, b, high) {
      if (high < 12) return;
      const next = new Float64Array(panel.lanes.length).fill(pen.right);
      pen.g.font = `10px ${pen.theme.mono}`;
      for (let i = b - 1; i >= a; i--) {
        if (run.depth[i] || run.end[i] < pen.from || !panel.shows(i)) continue;
        const [x, y, width, height] = panel.box(pen, i, high), row = panel.rowOf[run.lane[i]];
        if (width <= 56 && x >= pen.left) {
          const words = sentenceOf(run, i), from = x + Math.max(width, 2) + 7;
          if (from + pen.g.measureText(words).width < next[row] - 6) {
            pen.text(words, from, y + height / 2 + 0.5, { size: 10, mono: true, color: pen.theme.soft });
          }
        }
        next[row] = Math.min(next[row], x);
      }
    },

    // Store requests inside an operation lie below it.
    box(pen, i, high) {
      const x = pen.x(run.start[i]), width = (run.end[i] - run.start[i]) * pen.scale;
      const top = panel.rowOf[run.lane[i]] * high;
      if (!run.nested) return [x, top + 2, width, high - 4];
      return run.depth[i] ? [x, top + high * 0.62, width, high * 0.3] : [x, top + 2, width, high * 0.52];
    },

    bar(pen, i, high) {
      const { g, theme } = pen;
      let [x, y, width, height] = panel.box(pen, i, high);
      const past = Math.max(0, pen.left - 4 - x);
      x += past;
      width = Math.min(width - past, pen.right - x + 4);
      switch (Math.min(INFO, run.type[i])) {
        case OK:
          g.fillStyle = isRead(run, i) ? theme.read : theme.ok;
          g.fillRect(x, y, Math.max(1.5, width), height);
          break;
        case FAIL:
          g.fillStyle = g.strokeStyle = theme.fail;
          g.lineWidth = 1;
          if (width < 4) g.fillRect(x, y - 1.5, 2, height + 3);
          else {
            g.fillStyle = theme.surface;
            g.fillRect(x, y, width, height);
            g.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
          }
          break;
        default:
          g.fillStyle = theme.surface;
          g.fillRect(x, y, Math.max(2, width), height);
          g.fillStyle = weave("slant", theme.info, WEAVES.partition);
          g.fillRect(x, y, Math.max(2, width), height);
          g.strokeStyle = theme.info;
          g.lineWidth = 1;
          g.beginPath();
          g.moveTo(x + width, y + 0.5); g.lineTo(x + 0.5, y + 0.5); g.lineTo(x + 0.5, y + height - 0.5); g.lineTo(x + width, y + height - 0.5);
          g.stroke();
          g.setLineDash([1.5, 2.5]);
          g.beginPath();
          g.moveTo(x + width + 1, y + height / 2); g.lineTo(x + width + 14, y + height / 2);
          g.stroke();
          g.setLineDash([]);
      }
      if (width > 56 && height >= 9) {
        const inside = run.type[i] === OK && !isRead(run, i);
        g.font = `10px ${theme.mono}`;
        const words = fitted(g, sentenceOf(run, i), width - 6);
        pen.text(words, x + 4, y + height / 2 + 0.5, { size: 10, mono: true, color: inside ? theme.surface : theme.ink, halo: run.type[i] >= INFO ? theme.surface : null });
      }
    },

    describe(pen, x, y) {
      const high = panel.laneHeight();
      const row = Math.floor(y / high), lane = panel.lanes[row];
      if (lane === undefined) return null;
      const from = pen.us(x - 4), to = pen.us(x + 4), at = pen.us(x);
      const [a, b] = run.touching(from, to);
      if (panel.dense) {
        const counts = [0, 0, 0];
        for (let i = a; i < b; i++) {
          if (run.lane[i] === lane && !run.depth[i] && run.end[i] >= from) counts[Math.min(INFO, run.type[i])]++;
        }
        const sum = counts[0] + counts[1] + counts[2];
        return sum ? { text: `${sum} operations around ${seconds(at, to - from)} s\n${counts[0]} ok, ${counts[1]} fail, ${counts[2]} info\nzoom in to see each` } : null;
      }
      let best = -1, distance = Infinity;
      for (let i = a; i < b; i++) {
        if (run.lane[i] !== lane || run.end[i] < from || !panel.shows(i)) continue;
        const [left, top, width, height] = panel.box(pen, i, high);
        const away = Math.max(0, left - x, x - left - width) + 2 * Math.max(0, top - y, y - top - height);
        if (away <= distance) { distance = away; best = i; }
      }
      return best < 0 ? null : { text: describeOperation(run, best), operation: best };
    },
  };
  panel.window = null;
  panel.choose(false);
  return panel;
}

// How long operations took, on a logarithmic scale: a shade of how many, lines for the median and the 99th percentile, and
// (in a crowd) what did not succeed, drawn as large as its share of all operations of that time.
function latencyPanel(run) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < run.count; i++) {
    if (run.depth[i] || run.type[i] === OPEN) continue;
    low = Math.min(low, run.log[i]);
    high = Math.max(high, run.log[i]);
  }
  if (!(low < Infinity)) [low, high] = [2, 3];
  low = Math.floor(low * 2 - 0.2) / 2;
  high = Math.max(low + 1, Math.ceil(high * 2 + 0.2) / 2);
  const top = 6, bottom = 6, tall = 190;
  const y = (log) => tall - bottom - ((log - low) / (high - low)) * (tall - top - bottom);

  const each = 4, rows = Math.ceil(tall / each);

  // How many ended how in each cell of the picture: [ok, fail, info].
  function grid(pen, a, b) {
    const columns = Math.ceil((pen.right - pen.left) / each);
    const counts = [new Uint32Array(columns * rows), new Uint32Array(columns * rows), new Uint32Array(columns * rows)];
    const per = columns / (pen.to - pen.from);
    for (let i = a; i < b; i++) {
      if (run.depth[i] || run.type[i] === OPEN) continue;
      const c = Math.floor((run.start[i] - pen.from) * per);
      if (c >= 0 && c < columns) counts[run.type[i]][c * rows + Math.min(rows - 1, Math.max(0, (y(run.log[i]) / each) | 0))]++;
    }
    return [columns, counts];
  }

  function drawCloud(pen, columns, [good, fails, infos]) {
    const { g, theme } = pen;
    let most = 1;
    for (const n of good) if (n > most) most = n;
    g.fillStyle = theme.ok;
    for (let c = 0; c < columns; c++) {
      for (let r = 0; r < rows; r++) {
        const n = good[c * rows + r];
        if (!n) continue;
        g.globalAlpha = 0.16 + 0.74 * (Math.log1p(n) / Math.log1p(most));
        g.fillRect(pen.left + c * each, r * each, each, each);
      }
    }
    g.globalAlpha = 1;
    const wide = 3, size = each * wide;
    for (let c = 0; c < columns; c += wide) {
      let sum = 0;
      for (let k = c * rows; k < Math.min(columns, c + wide) * rows; k++) sum += good[k] + fails[k] + infos[k];
      for (let r = 0; r < rows; r += wide) {
        let fail = 0, info = 0;
        for (let i = c; i < Math.min(columns, c + wide); i++) {
          for (let j = r; j < Math.min(rows, r + wide); j++) {
            fail += fails[i * rows + j];
            info += infos[i * rows + j];
          }
        }
        const x = pen.left + (c + wide / 2) * each, middle = (r + wide / 2) * each;
        if (fail) cross(g, x, middle, Math.max(1.6, (size / 2) * Math.sqrt(fail / sum)), theme.fail);
        if (info) triangle(g, x, middle, Math.max(1.8, (size / 2) * Math.sqrt(info / sum)), theme.info);
      }
    }
  }

  // A quantile of every four columns.
  function line(pen, columns, good, share, dash) {
    const { g } = pen;
    g.strokeStyle = pen.theme.ink;
    g.lineWidth = 1.25;
    g.setLineDash(dash);
    g.beginPath();
    let drawing = false;
    for (let c = 0; c < columns; c += 4) {
      let sum = 0;
      for (let k = c * rows; k < Math.min(columns, c + 4) * rows; k++) sum += good[k];
      if (!sum) { drawing = false; continue; }
      let seen = 0, r = rows - 1;
      for (; r >= 0; r--) {
        for (let k = c; k < Math.min(columns, c + 4); k++) seen += good[k * rows + r];
        if (seen >= sum * share) break;
      }
      const x = pen.left + (c + 2) * each, middle = (r + 0.5) * each;
      if (drawing) g.lineTo(x, middle); else g.moveTo(x, middle);
      drawing = true;
    }
    g.stroke();
    g.setLineDash([]);
  }

  function drawEach(pen, a, b) {
    const { g, theme } = pen;
    g.fillStyle = theme.ok;
    g.globalAlpha = b - a > 600 ? 0.4 : 0.75;
    for (const type of [OK, FAIL, INFO]) {
      for (let i = a; i < b; i++) {
        if (run.type[i] !== type || run.depth[i]) continue;
        const x = pen.x(run.start[i]), middle = y(run.log[i]);
        if (type === FAIL) cross(g, x, middle, 3, theme.fail);
        else if (type === INFO) triangle(g, x, middle, 3.6, theme.info);
        else { g.beginPath(); g.arc(x, middle, 1.7, 0, 7); g.fill(); }
      }
      g.globalAlpha = 1;
    }
  }

  return {
    name: "latency",
    title: "Latency",
    legend: [["dot", "ok"], ["cross", "fail"], ["triangle", "info"], ["line", "median of ok"], ["dashes", "99th percentile"]],
    height: () => tall,
    draw(pen) {
      const { g, theme } = pen;
      for (let log = Math.ceil(low); log <= high; log++) {
        pen.label(lasting(10 ** log), y(log));
        g.fillStyle = theme.line;
        g.fillRect(pen.left, Math.round(y(log)), pen.right - pen.left, 1);
      }
      const [a, b] = [firstAtLeast(run.start, pen.from), firstAtLeast(run.start, pen.to)];
      const [columns, counts] = grid(pen, a, b);
      pen.clipped(() => {
        if (b - a > (pen.right - pen.left) * 5) drawCloud(pen, columns, counts); else drawEach(pen, a, b);
        if (b - a < 500) return;
        line(pen, columns, counts[OK], 0.5, []);
        line(pen, columns, counts[OK], 0.99, [4, 2.5]);
      });
    },
    describe(pen, x, at) {
      const [a, b] = [firstAtLeast(run.start, pen.us(x - 6)), firstAtLeast(run.start, pen.us(x + 6))];
      const found = [];
      let fail = 0, info = 0, near = -1, distance = 8;
      for (let i = a; i < b; i++) {
        if (run.depth[i] || run.type[i] === OPEN) continue;
        if (run.type[i] === OK) found.push(run.took[i]); else if (run.type[i] === FAIL) fail++; else info++;
        const away = Math.hypot(pen.x(run.start[i]) - x, y(run.log[i]) - at);
        if (away < distance) { distance = away; near = i; }
      }
      if (near >= 0 && found.length + fail + info < 12) return { text: describeOperation(run, near), operation: near };
      if (!(found.length + fail + info)) return null;
      found.sort((p, q) => p - q);
      const quantile = (share) => lasting(found[Math.min(found.length - 1, Math.floor(found.length * share))]);
      const times = found.length ? `median ${quantile(0.5)}, 99 % ${quantile(0.99)}, slowest ${quantile(1)}\n` : "";
      return { text: `around ${seconds(pen.us(x), (pen.to - pen.from) / 1000)} s\n${times}${found.length} ok, ${fail} fail, ${info} info` };
    },
  };
}

function cross(g, x, y, r, color) {
  g.strokeStyle = color;
  g.lineWidth = Math.min(1.4, 0.5 + r / 3);
  g.beginPath();
  g.moveTo(x - r, y - r); g.lineTo(x + r, y + r);
  g.moveTo(x + r, y - r); g.lineTo(x - r, y + r);
  g.stroke();
}

function triangle(g, x, y, r, color) {
  g.strokeStyle = color;
  g.lineWidth = Math.min(1.3, 0.5 + r / 4);
  g.beginPath();
  g.moveTo(x, y - r); g.lineTo(x + r, y + r * 0.8); g.lineTo(x - r, y + r * 0.8);
  g.closePath();
  g.stroke();
}

function throughputPanel(run) {
  const tall = 110;
  function buckets(pen) {
    const width = Math.max(roundStep(pen.to - pen.from, (pen.right - pen.left) / 5), 1);
    const first = Math.floor(pen.from / width) * width;
    const count = Math.ceil((pen.to - first) / width) + 1;
    const counts = [new Uint32Array(count), new Uint32Array(count), new Uint32Array(count)];
    const [a, b] = [firstAtLeast(run.start, first), firstAtLeast(run.start, first + count * width)];
    for (let i = a; i < b; i++) {
      if (!run.depth[i]) counts[Math.min(INFO, run.type[i])][Math.min(count - 1, ((run.start[i] - first) / width) | 0)]++;
    }
    let most = 1;
    for (let k = 0; k < count; k++) most = Math.max(most, counts[0][k] + counts[1][k] + counts[2][k]);
    return { width, first, count, counts, most };
  }
  return {
    name: "throughput",
    title: "Operations a second",
    legend: [["step", "ok"], ["weave", "fail"], ["info", "info"]],
    height: () => tall,
    draw(pen) {
      const { g, theme } = pen;
      const { width, first, count, counts, most } = buckets(pen);
      const rate = (most / width) * 1e6, up = (n) => ((tall - 12) * n) / most;
      scale(pen, rate, tall, 12);
      pen.clipped(() => {
        for (let k = 0; k < count; k++) {
          const x = pen.x(first + k * width), wide = Math.max(1, width * pen.scale - 0.5);
          let base = tall;
          [theme.ok, theme.fail, theme.info].forEach((color, type) => {
            const high = up(counts[type][k]);
            if (!high) return;
            g.fillStyle = type === OK ? theme.read : theme.surface;
            g.fillRect(x, base - high, wide, high);
            g.fillStyle = type === FAIL ? weave("crossed", color, WEAVES.kill) : type === INFO ? weave("slant", color, WEAVES.partition) : theme.read;
            g.fillRect(x, base - high, wide, high);
            g.fillStyle = color;
            g.fillRect(x, base - high, wide, Math.min(1.5, high));
            base -= high;
          });
        }
      });
    },
    describe(pen, x) {
      const { width, first, count, counts } = buckets(pen);
      const k = Math.floor((pen.us(x) - first) / width);
      if (k < 0 || k >= count) return null;
      const rate = (n) => `${+((n / width) * 1e6).toPrecision(3)}/s`;
      return { text: `${seconds(first + k * width, width)} s, over ${lasting(width)}\n${rate(counts[0][k])} ok (${counts[0][k]})\n${rate(counts[1][k])} fail (${counts[1][k]})\n${rate(counts[2][k])} info (${counts[2][k]})` };
    },
  };
}

// Lines at round numbers from 0 to `most`, which stands `top` pixels below the upper edge.
function scale(pen, most, tall, top) {
  const step = Math.max(roundStep(most, 3), most > 3 ? 1 : 0.001);
  for (let value = 0; value <= most * 1.001; value += step) {
    const y = Math.round(tall - ((tall - top) * value) / most);
    pen.label(String(+value.toPrecision(6)), Math.max(6, Math.min(tall - 6, y)));
    pen.g.fillStyle = pen.theme.line;
    pen.g.fillRect(pen.left, Math.min(tall - 1, y), pen.right - pen.left, 1);
  }
}

// The value that a line of steps has at a moment; null before its first point or where nobody answered.
function valueAt(at, values, us) {
  const i = firstAtLeast(at, us + 1) - 1;
  return i < 0 || values[i] < 0 ? null : values[i];
}

function steps(pen, at, values, y, base, fill, stroke) {
  const { g } = pen;
  const a = Math.max(0, firstAtLeast(at, pen.from) - 1), b = Math.min(at.length - 1, firstAtLeast(at, pen.to) + 1);
  for (let i = a; i <= b; i++) {
    const x = pen.x(at[i]), next = i + 1 < at.length ? pen.x(at[i + 1]) : x + 2;
    if (values[i] < 0) {
      g.fillStyle = pen.theme.soft;
      for (let dot = x; dot < next; dot += 4) g.fillRect(dot, base - 1.5, 1.5, 1.5);
      continue;
    }
    if (!values[i]) continue;
    g.fillStyle = fill;
    g.fillRect(x, y(values[i]), Math.max(1, next - x), base - y(values[i]));
    g.fillStyle = stroke;
    g.fillRect(x, y(values[i]) - 0.75, Math.max(1, next - x), 1.5);
  }
}

function hintsPanel(run) {
  const names = Object.keys(run.hints), high = 26;
  const most = Math.max(1, ...names.map((n) => run.hints[n][1].reduce((p, q) => Math.max(p, q), 0)));
  return {
    name: "hints",
    title: "Hints that wait for delivery",
    legend: [["step", `on each node, scale to ${most}`], ["gap", "no answer"]],
    height: () => names.length * high + 2,
    draw(pen) {
      names.forEach((name, row) => {
        const base = (row + 1) * high - 2;
        pen.label(name, base - high / 2 + 2, { color: pen.theme.ink });
        pen.g.fillStyle = pen.theme.line;
        pen.g.fillRect(pen.left, base, pen.right - pen.left, 1);
        const [at, values] = run.hints[name];
        pen.clipped(() => steps(pen, at, values, (v) => base - ((high - 7) * v) / most, base, pen.theme.read, pen.theme.ok));
      });
    },
    describe(pen, x) {
      const us = pen.us(x);
      const told = names.map((n) => [n, valueAt(...run.hints[n], us)]).map(([n, v]) => `${n}: ${v === null ? "no answer" : v}`);
      return { text: `hints at ${seconds(us, (pen.to - pen.from) / 1000)} s\n${told.join("\n")}` };
    },
  };
}

function agreementPanel(run) {
  const { at, apart, ranges, settled } = run.agreement, tall = 74;
  const most = Math.max(1, apart.reduce((p, q) => Math.max(p, q), 0));
  return {
    name: "agreement",
    title: "Token ranges in which nodes differ",
    legend: [["step", `of ${ranges}; ${settled === null ? `nodes differed at the last look, at ${seconds(at[at.length - 1], 1000)} s; the final reads and their checks came after it` : `all agree for good from ${seconds(settled, 1000)} s`}`]],
    height: () => tall,
    draw(pen) {
      scale(pen, most, tall, 10);
      pen.clipped(() => {
        steps(pen, at, apart, (v) => tall - ((tall - 10) * v) / most, tall, pen.theme.read, pen.theme.ok);
        if (settled === null || settled < pen.from || settled > pen.to) return;
        const x = pen.x(settled);
        pen.g.fillStyle = pen.theme.valid;
        pen.g.fillRect(x, 0, 1.5, tall);
        const right = x > pen.right - 100;
        pen.text("agreed", right ? x - 5 : x + 5, 9, { size: 10.5, align: right ? "right" : "left", color: pen.theme.valid, weight: 600 });
      });
    },
    describe(pen, x) {
      const value = valueAt(at, apart, pen.us(x));
      return value === null ? null : { text: `${value} of ${ranges} token ranges differ\nat ${seconds(pen.us(x), (pen.to - pen.from) / 1000)} s` };
    },
  };
}

function siblingsPanel(run) {
  const tall = 74, each = 4;
  let most = 1;
  for (const code of run.siblings) if (code - 1 > most) most = code - 1;
  function buckets(pen) {
    const columns = Math.ceil((pen.right - pen.left) / each);
    const highest = new Int32Array(columns).fill(-1), sums = new Float64Array(columns), counts = new Uint32Array(columns);
    const [a, b] = [firstAtLeast(run.start, pen.from), firstAtLeast(run.start, pen.to)];
    for (let i = a; i < b; i++) {
      if (!run.siblings[i]) continue;
      const c = Math.min(columns - 1, (((run.start[i] - pen.from) * pen.scale) / each) | 0), value = run.siblings[i] - 1;
      highest[c] = Math.max(highest[c], value);
      sums[c] += value;
      counts[c]++;
    }
    return { columns, highest, sums, counts };
  }
  return {
    name: "siblings",
    title: "Siblings that reads returned",
    legend: [["line", "most"], ["read", "mean"]],
    height: () => tall,
    draw(pen) {
      const { columns, highest, sums, counts } = buckets(pen);
      const y = (v) => tall - ((tall - 10) * v) / most;
      scale(pen, most, tall, 10);
      for (let c = 0; c < columns; c++) {
        if (!counts[c]) continue;
        const x = pen.left + c * each;
        pen.g.fillStyle = pen.theme.read;
        pen.g.fillRect(x, y(sums[c] / counts[c]), each - 0.5, tall - y(sums[c] / counts[c]));
        pen.g.fillStyle = pen.theme.ink;
        pen.g.fillRect(x, Math.min(tall - 1.5, y(highest[c]) - 0.75), each - 0.5, 1.5);
      }
    },
    describe(pen, x) {
      const { highest, sums, counts } = buckets(pen);
      const c = Math.floor((x - pen.left) / each);
      return counts[c] ? { text: `${counts[c]} reads around ${seconds(pen.us(x), (pen.to - pen.from) / 1000)} s\nmost ${highest[c]}, mean ${(sums[c] / counts[c]).toFixed(2)} siblings` } : null;
    },
  };
}
