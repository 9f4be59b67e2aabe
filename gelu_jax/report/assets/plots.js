"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const controls = document.getElementById("controls");
const config = {
  responsive: true,
  displaylogo: false,
  // listed one by one: Plotly's default includes a button that uploads the data
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  plotlyServerURL: "",
};

// names come from configs, and Plotly renders some HTML in labels: "<" and "&" are escaped
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (arm) => css(`--arm-${arm % 8}`);
const dash = (arm) => ["solid", "dash", "dot"][Math.floor(arm / 4) % 3];
const checked = (name) => controls.elements[name].checked;
const chosen = (name) => controls.elements[name].value;
const shownArms = () =>
  [...controls.querySelectorAll("[name=arm]:checked")].map((box) => Number(box.value));

function faded(arm, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour(arm).slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

function axis(title, more = {}) {
  return {
    title: { text: plain(title), standoff: 12 },
    gridcolor: css("--line"),
    linecolor: css("--soft"),
    zeroline: false,
    automargin: true,
    ...more,
  };
}

function layout(xaxis, yaxis, more = {}) {
  return {
    xaxis,
    yaxis,
    showlegend: false,
    font: { family: css("--sans"), size: 13, color: css("--ink") },
    paper_bgcolor: css("--paper"),
    plot_bgcolor: css("--paper"),
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink") } },
    modebar: { bgcolor: "transparent", color: css("--soft"), activecolor: css("--ink") },
    margin: { l: 8, r: 20, t: 28, b: 8 },
    // a finger that scrolls the page must not zoom the plot
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...more,
  };
}

// a label in the colour of its arm at the end of each line, moved apart where they would overlap
function lineEnds(ends, [low, high], log = false) {
  const scale = log ? Math.log10 : (value) => value;
  const [bottom, top] = [scale(low), scale(high)];
  const placed = ends
    .filter((end) => Number.isFinite(end.y) && end.y >= low && end.y <= high)
    .map((end) => ({ ...end, at: scale(end.y) }))
    .sort((a, b) => a.at - b.at);
  const gap = (top - bottom) * 0.045;
  for (let i = 1; i < placed.length; i++) placed[i].at = Math.max(placed[i].at, placed[i - 1].at + gap);
  return placed.map(({ arm, at }) => ({
    x: 1, xref: "paper", xanchor: "left", xshift: 6, y: at, yanchor: "middle", showarrow: false,
    text: plain(data.arms[arm].name), font: { color: colour(arm), size: 12 },
  }));
}

// room for the labels at the line ends
const labelWidth = (ends) => 20 + 7 * Math.min(innerWidth < 700 ? 14 : 28, Math.max(0, ...ends.map(({ arm }) => data.arms[arm].name.length)));

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

document.querySelectorAll("[data-copy]").forEach((b) => b.addEventListener("click", () => copy(b)));
