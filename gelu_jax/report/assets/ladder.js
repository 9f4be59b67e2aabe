const UNITS = {
  FLOPs: { title: "training FLOPs of a run", format: ".3~s" },
  tokens: { title: "tokens of a run", format: ".3~s" },
  seconds: { title: "seconds of training of a run", format: ".3~s" },
};
const rung = (at) => `${data.sizes[at]} parameters`;

// one arm at all sizes: its seeds, their mean, and the law through them
function lossTraces(arm, unit) {
  const { name, losses, mean } = data.arms[arm];
  const x = data.costs[unit][arm], curve = data.laws[unit][arm];
  return [
    { x: x.flatMap((cost, at) => losses[at].map(() => cost)), y: losses.flat(), mode: "markers", hoverinfo: "skip",
      marker: { color: faded(arm, 0.35), size: 5 } },
    { x, y: mean, mode: "markers", text: mean.map((_, at) => rung(at)),
      marker: { color: colour(arm), size: 9 },
      hovertemplate: `${plain(name)}, %{text}: %{y:.4f}<extra></extra>` },
    { x: curve.cost, y: curve.loss, mode: "lines", hoverinfo: "skip",
      line: { color: colour(arm), width: 2, dash: dash(arm) } },
  ];
}

function drawLosses() {
  const unit = chosen("unit"), arms = shownArms();
  const traces = arms.flatMap((arm) => lossTraces(arm, unit));
  const values = arms.flatMap((arm) => [...data.arms[arm].losses.flat(), ...data.laws[unit][arm].loss]);
  const range = values.length ? [0.995 * Math.min(...values), 1.005 * Math.max(...values)] : [1, 2];
  const xaxis = axis(UNITS[unit].title, { type: "log", exponentformat: "power" });
  const yaxis = axis(`final loss (${data.unit})`, { type: "log", range: range.map(Math.log10) });
  const ends = arms.map((arm) => ({ arm, y: data.laws[unit][arm].loss.at(-1) }));
  const more = { hovermode: "closest", annotations: lineEnds(ends, range, true) };
  more.margin = { l: 8, t: 28, b: 8, r: labelWidth(ends) };
  Plotly.react("losses-plot", traces, layout(xaxis, yaxis, more), config);
}

function drawSpeedUps() {
  const unit = chosen("unit"), arms = shownArms().filter((arm) => data.speedUps[unit][arm]);
  const traces = arms.flatMap((arm) => {
    const { at, line } = data.speedUps[unit][arm];
    const x = data.costs[unit][0];
    const bound = (which) => at.map(({ value, interval }) => (interval ? Math.abs(interval[which] - value) : null));
    return [
      { x, y: at.map(({ value }) => value), mode: "markers", text: at.map((_, each) => rung(each)),
        error_y: { type: "data", symmetric: false, array: bound(1), arrayminus: bound(0), color: faded(arm, 0.6), width: 0 },
        marker: { color: colour(arm), size: 9 },
        hovertemplate: `${plain(data.arms[arm].name)}, %{text}: %{y:.2f} ×<extra></extra>` },
      { x, y: line, mode: "lines", hoverinfo: "skip", line: { color: colour(arm), width: 2, dash: dash(arm) } },
    ];
  });
  const xaxis = axis(UNITS[unit].title, { type: "log", exponentformat: "power" });
  const yaxis = axis(`speed-up in ${unit}`, { type: "log", tickformat: ".2f" });
  const ends = arms.map((arm) => ({ arm, y: data.speedUps[unit][arm].line.at(-1) }));
  const one = { type: "line", y0: 1, y1: 1, xref: "paper", x0: 0, x1: 1, line: { color: css("--soft"), width: 1 } };
  const values = traces.flatMap((trace) => trace.y).filter(Number.isFinite);
  const range = values.length ? [Math.min(1, ...values), Math.max(1, ...values)] : [1, 1];
  const more = { hovermode: "closest", shapes: [one], annotations: lineEnds(ends, range, true) };
  if (ends.length) more.margin = { l: 8, t: 28, b: 8, r: labelWidth(ends) };
  Plotly.react("speed-ups-plot", traces, layout(xaxis, yaxis, more), config);
}

function draw() {
  drawLosses();
  if (document.getElementById("speed-ups-plot") !== null) drawSpeedUps();
}

draw();
controls.addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
