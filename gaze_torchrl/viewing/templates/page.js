"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// Values under the pointer, in every chart of frames at once.
const format = (value) =>
  value === null ? "no value" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));

const charts = all(".chart").map((figure) => {
  const { x, y, domain: [low, high], unit } = JSON.parse(figure.dataset.chart);
  const cursor = one(".cursor", figure), value = one(".value", figure), svg = one("svg", figure), last = value.textContent;
  return {
    svg, unit, episode: figure.closest(".episode"),
    at(event) {
      const drawn = svg.getBoundingClientRect();
      return low + ((event.clientX - drawn.left) / drawn.width) * (high - low);
    },
    show(where) {
      if (!x.length) return;
      const i = x.reduce((best, here, j) => (Math.abs(here - where) < Math.abs(x[best] - where) ? j : best), 0);
      const values = y.map((column) => format(column[i])).join(" / ");
      value.textContent = unit === "frames" && y.length === 1 ? `${values} at ${format(x[i])}` : values;
      cursor.setAttribute("transform", `translate(${(100 * (x[i] - low)) / (high - low)})`);
      cursor.removeAttribute("hidden");
    },
    reset() {
      value.textContent = last;
      cursor.setAttribute("hidden", "");
    },
  };
});
const curves = charts.filter((chart) => !chart.episode);
for (const chart of curves) {
  for (const name of ["pointerdown", "pointermove"])
    chart.svg.addEventListener(name, (event) => curves.forEach((other) => other.show(chart.at(event))));
  chart.svg.addEventListener("pointerleave", () => curves.forEach((other) => other.reset()));
}

// Episodes, all at the same step.
const slider = one("#step");
if (slider) {
  const play = one("#play"), now = one("#now"), last = Number(slider.max);
  const traces = charts.filter((chart) => chart.episode);
  const episodes = all(".episode").map((article) => ({
    video: one(".video", article),
    steps: JSON.parse(article.dataset.steps),
    frames: JSON.parse(one(".frames", article).textContent),
  }));
  const stride = Math.max(...episodes.map(({ steps }) => (steps.length > 1 ? steps[1] - steps[0] : 1)));
  let timer = null;
  const show = (step) => {
    slider.value = step;
    now.textContent = `step ${step}`;
    for (const { video, steps, frames } of episodes) {
      const i = steps.findLastIndex((here) => here <= step);
      if (video.src !== frames[i]) video.src = frames[i];
      video.classList.toggle("over", step > steps.at(-1) + stride - 1);
    }
    traces.forEach((chart) => chart.show(step));
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    const fps = Number(one(".player").dataset.fps);
    timer = setInterval(() => show(Number(slider.value) >= last ? 0 : Math.min(last, Number(slider.value) + stride)), 1000 / fps);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  });
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  for (const chart of traces)
    for (const name of ["pointerdown", "pointermove"])
      chart.svg.addEventListener(name, (event) => {
        if (name === "pointermove" && timer) return;
        stop();
        show(Math.round(Math.min(Math.max(chart.at(event), 0), last)));
      });
  show(0);
}

// Triplets: sorted, a page at a time, with or without the gaze.
const controls = one(".controls");
if (controls) {
  const list = one(".triplets"), triplets = all(".triplet"), size = 6;
  const order = one("#order"), back = one("#back"), on = one("#on"), range = one("#range");
  let page = 0;
  const show = () => {
    triplets.forEach((triplet, i) => { triplet.hidden = Math.floor(i / size) !== page; });
    range.textContent = `${page * size + 1} to ${Math.min((page + 1) * size, triplets.length)} of ${triplets.length}`;
    back.disabled = page === 0;
    on.disabled = (page + 1) * size >= triplets.length;
  };
  order.addEventListener("change", () => {
    const key = order.value, sign = ["difference", "alike"].includes(key) ? -1 : 1;
    triplets.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]));
    list.append(...triplets);
    page = 0;
    show();
  });
  back.addEventListener("click", () => { page -= 1; show(); });
  on.addEventListener("click", () => { page += 1; show(); });
  one("#gaze")?.addEventListener("change", (event) => list.classList.toggle("plain", !event.target.checked));
  controls.hidden = false;
  show();
}
