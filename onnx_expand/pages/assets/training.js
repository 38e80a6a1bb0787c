// Training runs: curves by epoch, the differences by seed, samples, settings.

const COLORS = ["var(--arm0)", "var(--arm1)", "var(--arm2)", "var(--arm3)"];

// Round values that divide a range into about this many parts.
function ticks(low, high, parts) {
  const rough = (high - low || 1) / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function mean(curves, key, epoch) {
  const values = curves.map((curve) => curve[key][epoch]).filter((v) => v !== null && v !== undefined);
  return values.length ? values.reduce((a, b) => a + b) / values.length : null;
}

function shown(value, share) {
  if (value === null) return "";
  return share ? `${(100 * value).toFixed(2)} %` : value.toPrecision(4);
}

// One chart: thin lines for seeds, a thick one for their mean; dashed for the second key.
class Chart {
  constructor(title, arms, keys, share) {
    Object.assign(this, { arms, keys, share, left: 58, right: 548, top: 12, bottom: 256 });
    const values = arms.flatMap((arm) => arm.curves.flatMap((curve) => keys.flatMap((key) => curve[key]))).filter((v) => v !== null);
    this.epochs = Math.max(...arms.flatMap((arm) => arm.curves.map((curve) => curve[keys[0]].length)));
    this.logs = !share && values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 8 * Math.min(...values);
    const scale = (v) => (this.logs ? Math.log10(v) : v);
    let [low, high] = values.length ? [scale(Math.min(...values)), scale(Math.max(...values))] : [0, 1];
    const edge = (high - low) * 0.04 || Math.abs(high) * 0.04 || 1;
    [low, high] = [low - edge, high + edge];
    this.x = (epoch) => (this.epochs > 1 ? this.left + ((this.right - this.left) * (epoch - 1)) / (this.epochs - 1) : (this.left + this.right) / 2);
    this.y = (v) => this.bottom - ((this.bottom - this.top) * (scale(v) - low)) / (high - low);
    this.svg = element("svg", { viewBox: "0 0 560 300", role: "img", "aria-label": title, class: "chart" });
    this.axes(low, high);
    arms.forEach((arm, index) => this.lines(arm, COLORS[index % COLORS.length]));
    this.guide = element("line", { y1: this.top, y2: this.bottom, class: "guide", visibility: "hidden" });
    this.svg.append(this.guide);
    this.readout = element("p", { class: "soft readout", "aria-live": "off" });
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.say(this.epochs));
    this.root = element("figure", {}, element("figcaption", {}, title), this.svg, this.readout);
    this.say(this.epochs);
    this.guide.setAttribute("visibility", "hidden");
  }

  axes(low, high) {
    // Over less than two decades, ticks at powers of ten are too few.
    const marks = this.logs
      ? ticks(10 ** low, 10 ** high, 5).concat([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]).filter((v, i, all) => v > 0 && Math.log10(v) >= low && Math.log10(v) <= high && all.indexOf(v) === i)
      : ticks(low, high, 5);
    let last = Infinity;
    for (const v of [...marks].sort((a, b) => a - b)) {
      const y = this.y(v);
      if (last - y < 18) continue;
      last = y;
      const text = this.share ? `${+(100 * v).toPrecision(3)} %` : String(+v.toPrecision(3));
      this.svg.append(element("line", { x1: this.left, x2: this.right, y1: y, y2: y, class: "grid" }),
        element("text", { x: this.left - 7, y: y + 4, "text-anchor": "end" }, text));
    }
    for (const epoch of ticks(1, this.epochs, 8).filter((e) => Number.isInteger(e) && e >= 1)) {
      this.svg.append(element("text", { x: this.x(epoch), y: this.bottom + 18, "text-anchor": "middle" }, String(epoch)));
    }
    this.svg.append(element("text", { x: (this.left + this.right) / 2, y: this.bottom + 36, "text-anchor": "middle" }, "epoch"));
  }

  path(values, attributes) {
    let pen = "M", steps = "";
    values.forEach((v, i) => {
      if (v === null) { pen = "M"; return; }
      steps += `${pen}${this.x(i + 1).toFixed(1)} ${this.y(v).toFixed(1)}`;
      pen = "L";
    });
    if (values.filter((v) => v !== null).length === 1) steps += "h.01";
    this.svg.append(element("path", { d: steps, ...attributes }));
  }

  lines(arm, color) {
    for (const [place, key] of this.keys.entries()) {
      const dash = place ? { "stroke-dasharray": "5 4" } : {};
      if (!place && arm.curves.length > 1) for (const curve of arm.curves) this.path(curve[key], { style: `stroke:${color}`, class: "seed" });
      const middle = Array.from({ length: this.epochs }, (_, i) => mean(arm.curves, key, i));
      this.path(middle, { style: `stroke:${color}`, class: "mean", ...dash });
    }
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * 560) / box.width;
    const part = (x - this.left) / (this.right - this.left);
    this.say(Math.min(this.epochs, Math.max(1, 1 + Math.round(part * (this.epochs - 1)))));
  }

  say(epoch) {
    for (const end of ["x1", "x2"]) this.guide.setAttribute(end, this.x(epoch));
    this.guide.setAttribute("visibility", epoch === this.epochs ? "hidden" : "visible");
    const parts = this.arms.map((arm) => `${arm.name} ${this.keys.map((key, i) => [shown(mean(arm.curves, key, epoch - 1), this.share), i ? "(training)" : ""].join(" ").trim()).filter((t) => t && t !== "(training)").join(", ")}`);
    this.readout.textContent = `epoch ${epoch}: ${parts.join("; ")}`;
  }
}

function legend(arms, both) {
  const entries = arms.map((arm, i) => element("span", { class: "key" }, element("span", { class: "swatch", style: `background:${COLORS[i % COLORS.length]}` }),
    `${arm.name}${arm.curves.length > 1 ? ` (${arm.curves.length} seeds and their mean)` : ""}`));
  if (both) entries.push(element("span", { class: "soft" }, "dashed: on training data"));
  return element("p", { class: "legend" }, entries);
}

// The differences by seed, their mean and its interval, on an axis with zero.
function strip(difference, share) {
  const values = difference.values.filter((v) => v !== null);
  const interval = difference.interval && difference.interval.every((v) => v !== null) ? difference.interval : null;
  const all = [...values, ...(interval || []), 0];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (v) => 40 + (480 * (v - low)) / (high - low || 1);
  const unit = (v) => (share ? `${v > 0 ? "+" : ""}${+(100 * v).toPrecision(3)}` : `${v > 0 ? "+" : ""}${+v.toPrecision(3)}`);
  const svg = element("svg", { viewBox: "0 0 560 92", role: "img", "aria-label": "differences by seed", class: "chart" });
  svg.append(element("line", { x1: 20, x2: 540, y1: 60, y2: 60, class: "grid" }), element("line", { x1: x(0), x2: x(0), y1: 10, y2: 66, class: "zero" }));
  for (const v of ticks(low, high, 6)) svg.append(element("text", { x: x(v), y: 84, "text-anchor": "middle" }, v === 0 ? "0" : unit(v)));
  if (interval) svg.append(element("rect", { x: x(interval[0]), width: Math.max(1, x(interval[1]) - x(interval[0])), y: 56, height: 8, rx: 4, class: "interval" }));
  difference.values.forEach((v, i) => {
    if (v !== null) svg.append(element("circle", { cx: x(v), cy: 34, r: 7, class: "dot" }, element("title", {}, `seed ${difference.seeds[i]}: ${unit(v)}`)));
  });
  const what = `${difference.names[0]} minus ${difference.names[1]}, ${share ? "points" : "as measured"}; a dot for each seed, a bar for the 95 % interval of the mean`;
  return element("figure", {}, element("figcaption", {}, what), svg);
}

function texts(rows) {
  return element("div", { class: "scroll" }, element("table", {}, rows.map(([name, value]) =>
    element("tr", {}, element("td", { class: "text" }, name), element("td", { class: "text" }, element("code", {}, value))))));
}

function trainingSections(training) {
  const { arms, share } = training;
  if (training.cards.length) {
    section("Summary", element("div", { class: "cards" }, training.cards.map((card) => element("div", { class: "card" }, card.name,
      element("b", {}, card.value), element("span", { class: "soft" }, card.note)))));
  }
  const trained = arms.some((arm) => arm.curves.some((curve) => curve.train.some((v) => v !== null)));
  const charts = [new Chart(`test: ${training.metric}`, arms, trained ? ["test", "train"] : ["test"], share),
    new Chart("training loss", arms, ["loss"], false)];
  section("Curves", legend(arms, trained), element("div", { class: "pair" }, charts.map((chart) => chart.root)));
  if (training.difference) section("Difference", element("p", {}, training.difference.text), strip(training.difference, share));
  if (training.lines.length) section("What was found", training.lines.map((line) => element("p", {}, line)));
  for (const { title, header, rows } of training.tables) {
    const columns = header.map((name, i) => ({ key: i, title: name, text: i === 0, show: (row) => row[i], value: (row) => (row[i] !== "" && Number.isFinite(+row[i]) ? +row[i] : row[i]) }));
    section(title, table(columns, rows));
  }
  if (training.samples.length) {
    const wrong = training.samples.filter((s) => s.predicted !== null && s.predicted !== s.truth).length;
    const known = training.samples.some((s) => s.predicted !== null);
    section("Samples", known ? element("p", { class: "soft" }, `Test images with their classes. The trained model misclassifies ${wrong} of ${training.samples.length}; an arrow points to the class that it predicts.`) : null,
      element("div", { class: "samples" }, training.samples.map((sample) => {
        const off = sample.predicted !== null && sample.predicted !== sample.truth;
        return element("figure", { class: off ? "sample wrong" : "sample" }, element("img", { src: sample.image, alt: sample.truth === null ? "a test image" : sample.truth }),
          element("figcaption", {}, [sample.truth ?? "", off ? element("span", {}, ` \u2192 ${sample.predicted}`) : ""]));
      })));
  }
  if (training.settings.length) section("Settings", element("details", {}, element("summary", {}, `${training.settings.length} options`), texts(training.settings)));
}
