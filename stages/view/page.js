"use strict";
// The page is whole without this: it adds the values under the pointer and the filter of the samples.

const NONE = "–";
const small = (value) => value !== 0 && Math.abs(value) < 1e-4;
const shown = (value) => (value === null ? NONE : small(value) ? value.toExponential() : String(value));

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle; else high = middle;
  }
  return step - steps[low] <= steps[high] - step ? low : high;
}

// All charts of a stage point at the same step.
for (const stage of document.querySelectorAll(".stage")) {
  const charts = [...stage.querySelectorAll("figure")].map((figure) => {
    const outputs = [...figure.querySelectorAll("output")];
    const cursor = document.createElement("div");
    cursor.className = "cursor";
    cursor.hidden = true;
    cursor.append(document.createElement("span"));
    const plot = figure.querySelector(".plot");
    plot.append(cursor);
    return { plot, cursor, outputs, last: outputs.map((o) => o.textContent), data: JSON.parse(figure.querySelector("script").textContent) };
  });
  const point = (step) => {
    for (const { cursor, outputs, data } of charts) {
      const [low, high] = data.x;
      cursor.hidden = false;
      cursor.style.left = (100 * (step - low)) / (high - low) + "%";
      cursor.firstChild.textContent = step;
      data.lines.forEach((line, index) => {
        const at = nearest(line.steps, step);
        const mean = line.mean ? ` (mean ${shown(line.mean[at])})` : "";
        const band = line.band ? ` [${line.band[at].map(shown).join(", ")}]` : "";
        outputs[index].textContent = shown(line.values[at]) + band + mean;
      });
    }
  };
  const leave = () => {
    for (const { cursor, outputs, last } of charts) {
      cursor.hidden = true;
      outputs.forEach((output, index) => { output.textContent = last[index]; });
    }
  };
  for (const { plot, data } of charts) {
    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const steps = data.lines[0].steps;
      point(steps[nearest(steps, data.x[0] + share * (data.x[1] - data.x[0]))]);
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", leave);
  }
}

const articles = [...document.querySelectorAll("article")];
if (articles.length) {
  const find = document.querySelector(".find");
  const count = find.querySelector("output");
  const texts = articles.map((article) => article.textContent.toLowerCase());
  find.hidden = false;
  find.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    let matching = 0;
    articles.forEach((article, index) => {
      article.hidden = !texts[index].includes(wanted);
      matching += !article.hidden;
    });
    for (const step of document.querySelectorAll(".step")) {
      step.hidden = ![...step.querySelectorAll("article")].some((article) => !article.hidden);
    }
    count.textContent = wanted ? `${matching} of ${articles.length}` : "";
  });
}
