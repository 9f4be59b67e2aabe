const layers = document.getElementById("layers");

const AXES = {
  steps: { title: "training step", format: ",d", of: (curve) => curve.steps },
  tokens: { title: "tokens", format: ".4~s", of: (curve) => curve.steps.map((s) => s * data.tokensPerStep) },
  flops: {
    title: "training FLOPs", format: ".4~s",
    of: (curve, arm) => curve.steps.map((s) => s * arm.flopsPerStep),
  },
  seconds: { title: "seconds of training", format: ".1f", of: (curve) => curve.seconds },
};
const MEASURES = {
  validation: `validation loss (${data.unit})`,
  training: `training loss (${data.unit})`,
  accuracy: "validation accuracy",
  both: `loss (${data.unit})`,
};
// the curves of a choice of measure: training and validation together are dotted and not
const PARTS = { both: ["training", "validation"] };

function curveTraces(index, measure, along, seeds) {
  const arm = data.arms[index];
  if (PARTS[measure]) {
    const [training, validation] = PARTS[measure].map((part) => curveTraces(index, part, along, false));
    for (const trace of training) if (trace.line.width) Object.assign(trace.line, { dash: "dot", width: 1 });
    return [...training, ...validation].map((trace) =>
      ({ ...trace, name: trace.name && `${trace.name}, ${training.includes(trace) ? "training" : "validation"}` }));
  }
  const { band, runs } = arm.measures[measure];
  const traces = [];
  // where no run finished there is no mean, and the runs are all that there is
  for (const run of !band || (seeds && runs.length > 1) ? runs : []) {
    traces.push({
      x: along.of(run, arm), y: run.values, mode: "lines", hoverinfo: "skip",
      line: { color: faded(index, 0.3), width: 1, dash: run.status === "finished" ? dash(index) : "dot" },
    });
  }
  if (!band) return traces;
  const x = along.of(band, arm);
  if (band.sd.some((sd) => sd !== null)) {
    const edge = (sign) => band.mean.map((y, i) => y + sign * band.sd[i]);
    const line = { width: 0 };
    traces.push({ x, y: edge(-1), mode: "lines", line, hoverinfo: "skip" });
    traces.push({ x, y: edge(1), mode: "lines", line, hoverinfo: "skip", fill: "tonexty", fillcolor: faded(index, 0.12) });
  }
  traces.push({
    x, y: band.mean, mode: "lines", name: plain(arm.name),
    line: { color: colour(index), width: 2.5, dash: dash(index) },
    hovertemplate: `%{y:.${data.decimals}f}`,
  });
  return traces;
}

// the close-up: the values of the last four fifths of training
function closeRange(arms, measure) {
  const parts = arms.flatMap((index) => (PARTS[measure] ?? [measure]).map((part) => data.arms[index].measures[part]));
  const values = parts.flatMap(({ band, runs }) => {
    const finished = runs.filter((run) => run.status === "finished");
    const curves = [...(band ? finished : runs), ...(band ? [{ steps: band.steps, values: band.mean }] : [])];
    return curves.flatMap(({ steps, values }) =>
      values.filter((value, i) => value !== null && steps[i] >= steps[steps.length - 1] / 5));
  });
  if (!values.length) return undefined;
  const low = Math.min(...values), high = Math.max(...values);
  const margin = 0.05 * (high - low) || 0.1;
  return [low - margin, high + margin];
}

// from zero to just past the last point, so that the last tick keeps its label
const fromZero = (traces) => [0, 1.01 * Math.max(1, ...traces.flatMap((trace) => trace.x))];

const wholeRange = (traces) => {
  const values = traces.flatMap((trace) => trace.y).filter(Number.isFinite);
  return [Math.min(...values), Math.max(...values)];
};

function drawCurves() {
  const measure = chosen("measure"), along = AXES[chosen("axis")], arms = shownArms();
  const range = chosen("view") === "close" ? closeRange(arms, measure) : undefined;
  const usable = range && (!checked("logy") || range[0] > 0);
  const xaxis = axis(along.title, { type: checked("logx") ? "log" : "linear", hoverformat: along.format });
  const yaxis = axis(MEASURES[measure], { type: checked("logy") ? "log" : "linear", rangemode: "nonnegative" });
  if (usable) yaxis.range = checked("logy") ? range.map(Math.log10) : range;
  const traces = arms.flatMap((index) => curveTraces(index, measure, along, checked("seeds")));
  if (!checked("logx")) xaxis.range = fromZero(traces);
  const ends = arms.map((arm) => ({ arm, y: data.arms[arm].measures[PARTS[measure] ? "validation" : measure].band?.mean.at(-1) }));
  const annotations = data.arms.length > 1 ? lineEnds(ends, range ?? wholeRange(traces), checked("logy")) : [];
  const more = { hovermode: "x unified", annotations };
  if (annotations.length) more.margin = { l: 8, t: 28, b: 8, r: labelWidth(ends) };
  Plotly.react("curves-plot", traces, layout(xaxis, yaxis, more), config);
}

function drawDifferences() {
  const shown = data.contrasts.filter((contrast) => shownArms().includes(contrast.arm));
  const name = (contrast) => plain(contrast.name);
  const traces = shown.flatMap((contrast, row) => [
    {
      x: contrast.differences, mode: "markers", text: contrast.seeds,
      y: contrast.seeds.map((_, i, all) => row + 0.3 * (i / Math.max(1, all.length - 1) - 0.5)),
      marker: { color: faded(contrast.arm, 0.45), size: 7 },
      hovertemplate: `${name(contrast)}, seed %{text}: %{x:.${data.decimals}f}<extra></extra>`,
    },
    { x: contrast.interval, y: contrast.interval.map(() => row), mode: "lines", hoverinfo: "skip",
      line: { color: colour(contrast.arm), width: 3 } },
    {
      x: [contrast.mean], y: [row], mode: "markers",
      marker: { color: colour(contrast.arm), size: 12 },
      hovertemplate: `${name(contrast)}, mean: %{x:.${data.decimals}f}<extra></extra>`,
    },
  ]);
  const ticks = { tickvals: shown.map((_, row) => row), ticktext: shown.map(name) };
  const yaxis = axis("", { ...ticks, range: [shown.length - 0.5, -0.5], showgrid: false, fixedrange: true });
  const xaxis = axis(`difference${data.baseline}`, { rangemode: "tozero" });
  xaxis.title.text += `${innerWidth < 640 ? "<br>" : " "}(${plain(data.unit)})`;
  const zero = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("--soft"), width: 1 } };
  document.getElementById("differences-plot").style.height = `${110 + 56 * data.contrasts.length}px`;
  Plotly.react("differences-plot", traces, layout(xaxis, yaxis, { shapes: [zero], hovermode: "closest" }), config);
}

// the speed-up to every loss that the baseline passes; training goes to the right
function drawTargets() {
  const shown = data.contrasts.filter((c) => c.targets.length && shownArms().includes(c.arm));
  const traces = shown.flatMap(({ name, arm, targets }) => {
    const banded = targets.filter(({ interval }) => interval.length && interval[0] > 0);
    const line = { width: 0 }, hoverinfo = "skip", mode = "lines", x = banded.map((t) => t.target);
    return [
      { x, y: banded.map((t) => t.interval[0]), mode, line, hoverinfo },
      { x, y: banded.map((t) => t.interval[1]), mode, line, hoverinfo, fill: "tonexty", fillcolor: faded(arm, 0.12) },
      { x: targets.map((t) => t.target), y: targets.map((t) => t.factor), mode: "lines+markers", name: plain(name),
        line: { color: colour(arm), width: 2, dash: dash(arm) }, marker: { size: 5 },
        hovertemplate: `${plain(name)} to %{x:.${data.decimals}f}: %{y:.2f} ×<extra></extra>` },
    ];
  });
  const one = { type: "line", y0: 1, y1: 1, xref: "paper", x0: 0, x1: 1, line: { color: css("--soft"), width: 1 } };
  const xaxis = axis(`target (${data.unit})`, { autorange: "reversed" });
  const yaxis = axis("speed-up in steps");
  Plotly.react("targets-plot", traces, layout(xaxis, yaxis, { shapes: [one], hovermode: "closest" }), config);
}

function drawRates() {
  const losses = data.arms.flatMap((arm) => arm.tried.filter((t) => t[3] === "finished").map((t) => t[1]));
  const top = Math.max(...losses);
  const traces = shownArms().flatMap((index) => {
    const { name, rates, tried, chosen } = data.arms[index];
    const diverged = (t) => t[3] === "diverged";
    const stopped = (t) => t[3] === "stopped";
    const kept = tried.filter((t) => t[3] !== "interrupted");
    const best = rates.filter(([rate]) => rate === chosen);
    const line = rates.filter(([rate]) => !tried.some((t) => t[0] === rate && diverged(t)));
    return [
      { x: kept.map((t) => t[0]), y: kept.map((t) => (diverged(t) ? top : t[1])), mode: "markers",
        text: kept.map((t) => `seed ${t[2]}${diverged(t) ? ", diverged" : stopped(t) ? ", stopped early" : ""}`),
        marker: { color: faded(index, 0.45), size: kept.map((t) => (diverged(t) ? 10 : 6)),
          symbol: kept.map((t) => (diverged(t) ? "x" : stopped(t) ? "square-open" : "circle")), line: { width: 0 } },
        hovertemplate: `${plain(name)} at %{x}, %{text}: %{y:.${data.decimals}f}<extra></extra>` },
      { x: line.map((r) => r[0]), y: line.map((r) => r[1]), mode: "lines+markers",
        line: { color: colour(index), width: 2.5, dash: dash(index) }, marker: { size: 7 },
        hovertemplate: `${plain(name)} at %{x}: %{y:.${data.decimals}f}<extra></extra>` },
      { x: best.map((r) => r[0]), y: best.map((r) => r[1]), mode: "markers", hoverinfo: "skip",
        marker: { symbol: "circle-open", size: 16, color: colour(index), line: { width: 2 } } },
    ];
  });
  const tickvals = [...new Set(data.arms.flatMap((arm) => arm.tried.map((t) => t[0])))];
  const xaxis = axis("learning rate", { type: "log", tickvals, ticktext: tickvals.map(String) });
  const yaxis = axis(`final loss (${data.unit})`);
  Plotly.react("rates-plot", traces, layout(xaxis, yaxis, { hovermode: "closest" }), config);
}

// the experts of a layer share a plot
const plotOf = (name) => name.replace(/ of expert \d+$/, " of each expert");
const healthPlots = [...new Set(data.arms.flatMap((arm) => Object.keys(arm.health).map(plotOf)))];
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
// a layer that has none of it does not count
const layerMean = (rows) => rows[0].map((_, at) => mean(rows.map((row) => row[at]).filter((value) => value !== null)));

function drawHealth() {
  const layer = layers.elements.layer.value;
  healthPlots.forEach((title, at) => {
    const traces = shownArms().flatMap((index) => {
      const names = Object.keys(data.arms[index].health).filter((name) => plotOf(name) === title);
      return names.map((name, number) => {
        const { steps, layers: rows } = data.arms[index].health[name];
        const arm = plain(data.arms[index].name);
        const one = { width: 2, hovertemplate: "%{y:.3~g}" };
        const many = { width: 1, hovertemplate: `${arm}, expert ${number + 1}: %{y:.3~g}<extra></extra>` };
        const { width, hovertemplate } = name === title ? one : many;
        return {
          x: steps, y: layer === "mean" ? layerMean(rows) : rows[Number(layer)], mode: "lines",
          name: arm, hovertemplate,
          line: { color: colour(index), width, dash: dash(index) },
        };
      });
    });
    const hovermode = data.arms.some((arm) => arm.health[title]) ? "x unified" : "closest";
    const more = { hovermode, title: { text: plain(title), font: { size: 14 }, x: 0, xanchor: "left" } };
    more.margin = { l: 8, r: 20, t: 44, b: 8 };
    const xaxis = axis("training step", { range: fromZero(traces), hoverformat: ",d" });
    Plotly.react(`health-${at}`, traces, layout(xaxis, axis("", { rangemode: "nonnegative" }), more), config);
  });
}

function buildHealth() {
  const depth = Math.max(...data.arms.flatMap((arm) => Object.values(arm.health).map((h) => h.layers.length)));
  const choices = ["mean", ...(depth > 1 ? Array.from({ length: depth }, (_, at) => String(at)) : [])];
  for (const choice of choices) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "layer", value: choice });
    const text = Object.assign(document.createElement("span"), { textContent: choice === "mean" ? "Mean" : Number(choice) + 1 });
    input.checked = choice === "mean";
    label.append(input, text);
    layers.firstElementChild.append(label);
  }
  healthPlots.forEach((_, at) => {
    const plot = Object.assign(document.createElement("div"), { id: `health-${at}`, className: "plot" });
    document.getElementById("health-plots").append(plot);
  });
}

// sections without content are not in the page
const has = (id) => document.getElementById(id) !== null;

function draw() {
  drawCurves();
  if (has("differences-plot")) drawDifferences();
  if (has("targets-plot")) drawTargets();
  if (has("rates-plot")) drawRates();
  if (has("layers")) drawHealth();
}

if (has("layers")) {
  buildHealth();
  layers.addEventListener("change", drawHealth);
}
draw();
controls.addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
