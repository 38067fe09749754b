// What the nodes said about themselves, one panel a chart: the first line filled, the others dashed, single nodes faint.

const DASHES = [[], [5, 3], [1.5, 2.5]];

function amount(value, unit) {
  if (!value) return "0";
  if (unit === "s") return lasting(value * 1e6);
  if (unit === "B/s") {
    const [divisor, name] = value >= 1e6 ? [1e6, "MB/s"] : value >= 1e3 ? [1e3, "kB/s"] : [1, "B/s"];
    return `${+(value / divisor).toPrecision(3)} ${name}`;
  }
  return `${+value.toPrecision(3)}${unit}`;
}

function metricPanel(run, chart) {
  const tall = 92, base = tall - 2, top = 16;
  let most = 0;
  for (const line of [...chart.lines, ...chart.each]) for (const value of line.values) if (value !== null && value > most) most = value;
  const near = chart.threshold !== null && most >= chart.threshold * 0.6;
  if (near) most = Math.max(most, chart.threshold * 1.05);
  most = most || 1;
  const y = (value) => base - ((base - top) * value) / most;

  // The value that holds at a moment: the look before it.
  const at = (line, us) => {
    const i = firstAtLeast(chart.at_us, us + 1) - 1;
    return i < 0 ? null : line.values[i];
  };

  function trace(pen, values, filled) {
    const { g } = pen;
    const a = Math.max(0, firstAtLeast(chart.at_us, pen.from) - 1);
    const b = Math.min(values.length - 1, firstAtLeast(chart.at_us, pen.to) + 1);
    let drawing = false;
    g.beginPath();
    for (let i = a; i <= b; i++) {
      const x = pen.x(chart.at_us[i]);
      if (values[i] === null) {
        if (drawing && filled) g.lineTo(x, base);
        drawing = false;
        continue;
      }
      if (!drawing && filled) g.moveTo(x, base);
      if (!drawing && !filled) g.moveTo(x, y(values[i])); else g.lineTo(x, y(values[i]));
      drawing = true;
      // It holds until the next look, as far as anybody knows.
      if (i === values.length - 1 || (i < b && values[i + 1] === null)) g.lineTo(pen.x(chart.at_us[Math.min(i + 1, values.length - 1)]), y(values[i]));
      if (i === b && filled) g.lineTo(Math.max(x, pen.x(chart.at_us[i])), base);
    }
  }

  function gaps(pen, values) {
    pen.g.fillStyle = pen.theme.soft;
    values.forEach((value, i) => {
      if (value !== null) return;
      const to = i + 1 < values.length ? pen.x(chart.at_us[i + 1]) : pen.x(chart.at_us[i]) + 4;
      for (let x = pen.x(chart.at_us[i]); x < to; x += 4) pen.g.fillRect(x, base - 1.5, 1.5, 1.5);
    });
  }

  return {
    name: "metric",
    title: chart.title,
    legend: [
      ...chart.lines.map((line, i) => [["step", "dashes", "dots"][i], line.name]),
      ...(chart.each.length ? [["thin", "each node"]] : []),
      ...(near ? [["limit", `alert above ${amount(chart.threshold, chart.unit)}`]] : []),
    ],
    height: () => tall,
    draw(pen) {
      const { g, theme } = pen;
      const step = chart.unit === "" ? Math.max(1, roundStep(most, 4)) : roundStep(most, 4);
      for (let value = 0; value <= most * 1.001; value += step) {
        const line = Math.round(y(value));
        pen.label(amount(value, chart.unit), Math.max(6, Math.min(base - 5, line)));
        g.fillStyle = theme.line;
        g.fillRect(pen.left, line, pen.right - pen.left, 1);
      }
      pen.clipped(() => {
        trace(pen, chart.lines[0].values, true);
        g.fillStyle = theme.read;
        g.fill();
        g.lineWidth = 1;
        g.strokeStyle = theme.soft;
        g.globalAlpha = 0.55;
        for (const line of chart.each) { trace(pen, line.values, false); g.stroke(); }
        g.globalAlpha = 1;
        chart.lines.forEach((line, i) => {
          trace(pen, line.values, false);
          g.strokeStyle = i ? theme.ink : theme.ok;
          g.lineWidth = i ? 1.25 : 1.75;
          g.setLineDash(DASHES[i]);
          g.stroke();
        });
        g.setLineDash([]);
        gaps(pen, chart.lines[0].values);
        if (near) {
          g.strokeStyle = theme.fail;
          g.lineWidth = 1;
          g.setLineDash([7, 4]);
          g.beginPath();
          g.moveTo(pen.left, y(chart.threshold)); g.lineTo(pen.right, y(chart.threshold));
          g.stroke();
          g.setLineDash([]);
        }
        let free = -Infinity;
        for (const [name, fired, over] of chart.alerts) {
          const from = pen.x(fired), to = over === null ? pen.right : pen.x(over);
          if (to < pen.left || from > pen.right) continue;
          g.fillStyle = theme.fail;
          g.fillRect(from, 2, Math.max(3, to - from), 3);
          g.fillRect(from, 2, 1.5, base - 2);
          const start = Math.max(from, pen.left) + 5, words = `${name} fires`;
          if (start < free) continue;
          pen.text(words, start, 11, { size: 10, color: theme.fail, weight: 600, halo: theme.surface });
          free = start + g.measureText(words).width + 8;
        }
      });
    },
    describe(pen, x) {
      const us = pen.us(x);
      if (!chart.at_us.length || us < chart.at_us[0]) return null;
      const told = (line) => `${line.name}: ${at(line, us) === null ? "no answer" : amount(at(line, us), chart.unit)}`;
      return { text: `${chart.title} at ${seconds(us, (pen.to - pen.from) / 1000)} s\n${[...chart.lines, ...chart.each].map(told).join("\n")}` };
    },
  };
}
