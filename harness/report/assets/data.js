// Reads the page's data back: deflated byte planes into typed arrays, one entry an operation.

const OK = 0, FAIL = 1, INFO = 2, OPEN = 3;
const TYPE_NAMES = ["ok", "fail", "info", "info (never answered)"];

async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const signed = (code) => (code & 1 ? -((code + 1) / 2) : code / 2);

async function readRun(text) {
  const characters = atob(text), whole = new Uint8Array(characters.length);
  for (let i = 0; i < whole.length; i++) whole[i] = characters.charCodeAt(i);
  const base = 4 + new DataView(whole.buffer).getUint32(0, true);
  const run = JSON.parse(new TextDecoder().decode(await inflate(whole.subarray(4, base))));
  const blocks = {};
  await Promise.all(Object.entries(run.columns).map(async ([name, [, , at, length]]) => {
    blocks[name] = await inflate(whole.subarray(base + at, base + at + length));
  }));

  function column(name) {
    const [count, width] = run.columns[name], bytes = blocks[name];
    if (width === 1) return bytes;
    const values = new Uint32Array(count);
    for (let plane = 0; plane < width; plane++) {
      const from = plane * count, shift = 8 * plane;
      for (let i = 0; i < count; i++) values[i] |= bytes[from + i] << shift;
    }
    return values;
  }

  const lines = (name) => new TextDecoder().decode(blocks[name]).split("\n");

  const n = run.count;
  run.type = column("type");
  run.lane = new Uint16Array(column("lane"));
  run.f = new Uint16Array(column("f"));
  run.key = column("key");
  run.error = new Uint16Array(column("error"));
  run.depth = column("depth");
  // Counted for answered gets alone: 0 elsewhere, else one more than the number of siblings.
  run.siblings = new Uint32Array(n);
  const counted = column("siblings"), get = run.words.f.indexOf("get");
  for (let i = 0, at = 0; i < n && get >= 0; i++) if (run.f[i] === get && run.type[i] === OK) run.siblings[i] = counted[at++];
  run.node = new Uint16Array(column("node"));
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
  const octaves = Float64Array.from({ length: 40 * run.steps }, (_, i) => 2 ** (i / run.steps) - 1);
  const logs = Float32Array.from(octaves, (lasted) => Math.log10(Math.max(1, lasted)));
  let quanta = 0, reach = -Infinity;
  for (let i = 0; i < n; i++) {
    quanta += gaps[i];
    const start = run.origin + quanta * quantum, code = took[i];
    const lasted = run.exact ? code : octaves[code];
    const end = run.type[i] === OPEN ? run.span[1] : start + lasted;
    run.start[i] = start;
    run.took[i] = lasted;
    run.end[i] = end;
    run.reach[i] = reach = Math.max(reach, end);
    run.log[i] = run.exact ? Math.log10(Math.max(1, lasted)) : logs[code];
  }

  if (run.columns.line) {
    run.line = new Uint32Array(n);
    let line = 0;
    column("line").forEach((code, i) => { run.line[i] = line += signed(code); });
  }

  // Which process an operation belongs to: the last one that began in its lane.
  const begun = run.lanes.map(() => []);
  const numbers = column("process"), names = run.processes.values();
  let position = 0;
  column("begun").forEach((gap, k) => {
    position += gap;
    const found = begun[run.lane[position]];
    const before = found.length ? found[found.length - 1][1] : 0;
    found.push([position, numbers[k] ? before + signed(numbers[k] - 1) : names.next().value]);
  });
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
      let at = 0;
      column("detailed").forEach((gap, row) => detailed.set((at += gap), row));
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
