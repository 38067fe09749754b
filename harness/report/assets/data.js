// Reads the page's data back: deflated byte planes into typed arrays, one entry an operation.

const OK = 0, FAIL = 1, INFO = 2, OPEN = 3;
const TYPE_NAMES = ["ok", "fail", "info", "info (never answered)"];

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function readRun(text) {
  const bytes = await unpack(text);
  const headBytes = new DataView(bytes.buffer).getUint32(0, true);
  const run = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + headBytes)));
  const base = 4 + headBytes;

  function column(name) {
    const [count, width, at] = run.columns[name];
    const values = new Uint32Array(count);
    for (let plane = 0; plane < width; plane++) {
      const from = base + at + plane * count;
      const shift = 8 * plane;
      for (let i = 0; i < count; i++) values[i] |= bytes[from + i] << shift;
    }
    return values;
  }

  function lines(name) {
    const [count, , at] = run.columns[name];
    return new TextDecoder().decode(bytes.subarray(base + at, base + at + count)).split("\n");
  }

  const n = run.count;
  run.type = Uint8Array.from(column("type"));
  run.lane = Uint16Array.from(column("lane"));
  run.f = Uint16Array.from(column("f"));
  run.key = column("key");
  run.error = Uint16Array.from(column("error"));
  run.depth = Uint8Array.from(column("depth"));
  run.siblings = column("siblings");
  run.node = Uint16Array.from(column("node"));
  const nodeOfLane = new Uint16Array(run.lanes.length);
  for (let i = 0; i < n; i++) {
    const code = run.node[i];
    if (code) nodeOfLane[run.lane[i]] = code - 1;
    run.node[i] = nodeOfLane[run.lane[i]];
  }

  // Times are microseconds since the run began. `end` is where a bar ends; `reach` the latest end so far.
  run.start = new Float64Array(n);
  run.took = new Float64Array(n);
  run.end = new Float64Array(n);
  run.reach = new Float64Array(n);
  run.log = new Float32Array(n);
  const gaps = column("start"), took = column("took");
  const quantum = run.quantum / 1000;
  const octaves = Float64Array.from({ length: 65 * run.steps }, (_, i) => 2 ** (i / run.steps) - 1);
  let quanta = 0, reach = -Infinity;
  for (let i = 0; i < n; i++) {
    quanta += gaps[i];
    const start = run.origin + quanta * quantum;
    const lasted = run.exact ? took[i] : octaves[took[i]];
    const end = run.type[i] === OPEN ? run.span[1] : start + lasted;
    run.start[i] = start;
    run.took[i] = lasted;
    run.end[i] = end;
    run.reach[i] = reach = Math.max(reach, end);
    run.log[i] = Math.log10(Math.max(1, lasted));
  }

  if (run.columns.line) {
    run.line = new Uint32Array(n);
    let line = 0;
    column("line").forEach((code, i) => { run.line[i] = line += code & 1 ? -((code + 1) >>> 1) : code >>> 1; });
  }

  // Which process an operation belongs to: the last one that began in its lane.
  const begun = run.lanes.map(() => []);
  for (const [name, lane, first] of run.processes) begun[lane].push([first, name]);
  run.process = (i) => {
    const found = begun[run.lane[i]];
    let at = found.length - 1;
    while (at > 0 && found[at][0] > i) at--;
    return found[at][1];
  };

  let texts = null, detailed = null;
  run.texts = (i) => {
    texts ||= { asked: lines("asked"), answer: lines("answer"), meta: lines("meta") };
    if (!run.everything && !detailed) {
      detailed = new Map();
      let position = 0;
      column("detailed").forEach((gap, row) => detailed.set((position += gap), row));
    }
    const row = run.everything ? i : detailed.get(i);
    return row === undefined ? null : { asked: texts.asked[row], answer: texts.answer[row], meta: texts.meta[row] };
  };

  // The first and one past the last operation that may touch [from, to].
  run.touching = (from, to) => [firstAtLeast(run.reach, from), firstAtLeast(run.start, to + 1e-9)];
  run.nested = run.depth.some((d) => d > 0);
  return run;
}

function firstAtLeast(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}
