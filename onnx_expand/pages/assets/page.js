// The sections of a report, built from its data.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const contents = document.getElementById("contents");

function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : value === null || value === undefined ? "unknown" : String(value);
}

function small(value) {
  if (typeof value === "number") return value && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(2));
  return value === null || value === undefined ? "" : String(value);
}

function section(title, ...children) {
  const id = title.toLowerCase().replace(/[^a-z]+/g, "-");
  contents.append(element("a", { href: `#${id}` }, title));
  main.append(element("section", { id, "aria-label": title }, element("h2", {}, title), ...children));
}

// A table whose headers sort it on a click; a row may be a link.
function table(columns, rows, follow) {
  const body = element("tbody");
  let sorted = null;
  const fill = () => {
    body.replaceChildren(...rows.map((row) => {
      const line = element("tr", follow ? { class: "link", tabindex: 0, onclick: () => follow(row), onkeydown: (e) => { if (e.key === "Enter") follow(row); } } : {});
      for (const column of columns) line.append(element("td", { class: column.text ? "text" : null }, column.show ? column.show(row) : count(row[column.key])));
      return line;
    }));
  };
  const sort = (column) => {
    const up = sorted === column.key;
    sorted = up ? null : column.key;
    const value = column.value || ((row) => row[column.key]);
    rows = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x ?? "").localeCompare(String(y ?? ""));
      return up ? order : -order;
    });
    fill();
  };
  const head = element("tr", {}, columns.map((column) => element("th", { class: column.text ? "text" : null },
    element("button", { type: "button", title: "sort", onclick: () => sort(column) }, column.title))));
  fill();
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), body));
}

function ratio(before, after) {
  return typeof before === "number" && typeof after === "number" && before > 0 ? `${(after / before).toFixed(2)} x` : "";
}

// -- Headline ---------------------------------------------------------------------------------

const verdict = document.getElementById("verdict");
verdict.textContent = data.text;
if (data.good !== null) verdict.className = data.good ? "good" : "bad";

if (data.headline.length || data.bench) {
  const cards = data.headline.map((figure) => element("div", { class: "card" }, figure.name,
    element("b", {}, count(figure.after)),
    element("span", { class: "soft" }, `${count(figure.before)} before${ratio(figure.before, figure.after) ? ", " + ratio(figure.before, figure.after) : ""}`)));
  for (const timing of data.bench ? data.bench.timings.slice(1) : []) {
    const [low, high] = timing.ratio_interval;
    cards.push(element("div", { class: "card" }, `latency, ${timing.provider}`,
      element("b", {}, `${timing.ratio.toFixed(2)} x`),
      element("span", { class: "soft" }, `95 %: ${low.toFixed(2)} to ${high.toFixed(2)}; ${(timing.median_seconds * 1e3).toFixed(3)} ms`)));
  }
  section("Summary", element("div", { class: "cards" }, cards));
}

if (data.training) trainingSections(data.training);

// -- Graphs -----------------------------------------------------------------------------------

const sides = ["nodes", "result"];
const siteOf = sides.map((side) => {
  const found = new Map();
  data.sites.forEach((site, index) => site[side].forEach((name) => found.set(name, index)));
  return found;
});
const ids = data.graphs.map((graph) => new Map(graph.nodes.map((node) => [node.name, node.id])));
const detail = element("div", { id: "detail", "aria-live": "polite" }, element("p", { class: "soft" }, "Choose a node, a site or a layer."));
let pictures = [];

function nodeText(node) {
  const lines = [element("h3", {}, `${node.op} `, element("code", {}, node.name))];
  if (node.weights.length) lines.push(element("p", { class: "mono" }, node.weights.join(", ")));
  if (node.attributes) lines.push(element("p", { class: "mono" }, node.attributes));
  lines.push(element("p", { class: "soft" }, `${count(node.parameters)} parameters, ${count(node.macs)} multiply-accumulates`));
  return lines;
}

function showSite(index) {
  const site = data.sites[index];
  const parts = sides.map((side, place) => {
    const graph = data.graphs[place];
    const nodes = site[side].map((name) => graph && graph.nodes[ids[place].get(name)]).filter((n) => n);
    return element("div", {}, element("h3", {}, place ? "now" : "was"),
      site.equation[place] ? element("p", { class: "mono" }, site.equation[place]) : null,
      nodes.map((node) => element("p", {}, element("b", {}, node.op), " ", element("code", {}, node.name), " ",
        element("span", { class: "soft mono" }, node.weights.join(", ")))));
  });
  const cost = site.before && site.after ? element("p", {},
    `multiply-accumulates ${count(site.before.macs)} to ${count(site.after.macs)}, parameters ${count(site.before.parameters)} to ${count(site.after.parameters)}`) : null;
  const proof = site.proof ? element("p", {},
    element("b", {}, site.proof.grade),
    site.proof.bound === null ? "" : `: error ${small(site.proof.error)}, at most ${small(site.proof.bound)} by rounding`,
    site.proof.why ? `; ${site.proof.why}` : "") : null;
  const border = site.border === "exact" ? null : element("p", {}, `border: ${site.border}`);
  const lines = [element("h3", {}, site.title), cost, proof, border, element("div", { class: "pair" }, parts)];
  detail.replaceChildren(...lines.filter((line) => line));
  pictures.forEach((picture, place) => picture.reveal(site[sides[place]].map((name) => ids[place].get(name)).filter((id) => id !== undefined)));
}

function showKept(group, index) {
  const nodes = group.nodes[index];
  const lines = [element("h3", {}, group.reason), element("p", {}, group.text), group.hint ? element("p", {}, group.hint) : null];
  // Nodes that fold renamed have their old names in the graph before.
  const found = nodes.map((name) => data.graphs.map((graph, place) => graph.nodes[ids[place].get(name)]).find((node) => node));
  detail.replaceChildren(...lines.filter((line) => line), ...found.filter((node) => node).flatMap(nodeText));
  pictures.forEach((picture, place) => picture.reveal(nodes.map((name) => ids[place].get(name)).filter((id) => id !== undefined)));
  detail.scrollIntoView({ block: "nearest" });
}

function choose(place, node) {
  if (siteOf[place].has(node.name)) {
    showSite(siteOf[place].get(node.name));
    return;
  }
  detail.replaceChildren(...nodeText(node));
  pictures.forEach((picture, at) => picture.reveal(at === place ? [node.id] : ids[at].has(node.name) ? [ids[at].get(node.name)] : []));
}

if (data.graphs.length) {
  pictures = data.graphs.map((graph, place) => new Picture(graph, place, siteOf[place], choose));
  section("Graphs", element("p", { class: "soft" }, "Nodes of one colour became one another. A dashed box is a scope; a click opens it."),
    element("div", { class: "pair" }, pictures.map((picture) => picture.root)), detail);
  pictures.forEach((picture) => picture.draw());
}

// -- Sites, kept nodes, layers ------------------------------------------------------------------

if (data.sites.length) {
  const rows = data.sites.map((site, index) => ({
    index, title: site.title, nodes: site.nodes.length, now: site.result.join(", "),
    before: site.before ? site.before.macs : null, after: site.after ? site.after.macs : null,
    grade: site.proof ? site.proof.grade : "", error: site.proof ? site.proof.error : null, bound: site.proof ? site.proof.bound : null,
  }));
  const columns = [
    { key: "title", title: data.kind === "check" ? "part" : "what", text: true },
    { key: "nodes", title: "nodes" },
    { key: "now", title: "now", text: true, show: (row) => element("code", {}, row.now) },
  ];
  if (data.kind !== "check") columns.push({ key: "before", title: "MACs before" }, { key: "after", title: "MACs after" });
  if (rows.some((row) => row.grade)) columns.push({ key: "grade", title: "checked" }, { key: "error", title: "error", show: (row) => small(row.error) }, { key: "bound", title: "bound", show: (row) => small(row.bound) });
  const name = { fold: "Folded", expand: "Expanded", check: "Parts that differ" }[data.kind] || "Sites";
  const groups = data.groups.length ? element("ul", {}, data.groups.map((group) => element("li", {}, `${group.sites.length} x ${group.text} `, element("code", {}, group.scope)))) : null;
  section(name, groups, table(columns, rows, (row) => { showSite(row.index); detail.scrollIntoView({ block: "nearest" }); }));
}

if (data.kept.length) {
  section(data.kind === "expand" ? "Not expanded" : "Kept", data.kept.map((group) => element("details", {},
    element("summary", {}, `${group.nodes.length} x ${group.reason}: ${group.text}`),
    group.hint ? element("p", {}, "What would change it: ", element("b", {}, group.hint)) : null,
    element("ul", {}, group.nodes.map((nodes, i) => element("li", {},
      element("button", { type: "button", class: "link mono", onclick: () => showKept(group, i) }, nodes.join(" + ")), " ",
      element("span", { class: "soft" }, Object.entries(group.numbers[i]).map(([key, value]) => `${key} ${value}`).join(", "))))))));
}

if (data.graphs.length) {
  const columns = [{ key: "name", title: "node", text: true, show: (row) => element("code", {}, row.name) }, { key: "op", title: "op", text: true }, { key: "macs", title: "MACs" }, { key: "parameters", title: "parameters" }];
  section("Layers by cost", element("div", { class: "pair" }, data.graphs.map((graph, place) => {
    const costly = graph.nodes.filter((node) => node.macs || node.parameters).sort((a, b) => (b.macs || 0) - (a.macs || 0) || b.parameters - a.parameters);
    const rest = costly.length > 200 ? element("p", { class: "soft" }, `${costly.length - 200} more`) : null;
    return element("div", {}, element("h3", {}, graph.title), table(columns, costly.slice(0, 200), (node) => choose(place, node)), rest);
  })));
}

// -- Check and bench ----------------------------------------------------------------------------

if (data.check) {
  const figures = data.check.figures;
  const share = (value) => (typeof value === "number" ? value : value === "inf" ? Infinity : 0);
  const bar = (row) => element("span", {}, element("span", { class: row.equal ? "bar" : "bar bad", style: `width:${Math.min(100, 100 * share(row.ratio)).toFixed(1)}px` }), ` ${small(row.ratio)}`);
  const columns = [{ key: "output", title: "output", text: true }, { key: "sample", title: "input", text: true }, { key: "provider", title: "on" }, { key: "error", title: "largest error", show: (row) => small(row.error) }, { key: "floor", title: "rounding of A", show: (row) => small(row.floor) }, { key: "ratio", title: "of the tolerance", show: bar }];
  if (figures.some((figure) => figure.border)) columns.push({ key: "border", title: "at the border", show: (row) => (row.border ? small(row.border[0]) : ""), value: (row) => (row.border ? share(row.border[0]) : 0) }, { key: "inside", title: "inside", show: (row) => (row.border ? small(row.border[1]) : ""), value: (row) => (row.border ? share(row.border[1]) : 0) });
  section("Check", element("p", {}, `${data.check.summary}. It rests on ${data.check.rests_on}.`),
    element("ul", {}, [...data.check.differences, ...data.check.notes].map((note) => element("li", {}, note))),
    table(columns, figures));
}

if (data.bench) {
  section("Latency", table([
    { key: "model", title: "model", text: true }, { key: "provider", title: "on" },
    { key: "median_seconds", title: "median", show: (row) => `${(row.median_seconds * 1e3).toFixed(3)} ms` },
    { key: "p95_seconds", title: "95th percentile", show: (row) => `${(row.p95_seconds * 1e3).toFixed(3)} ms` },
    { key: "ratio", title: "ratio", show: (row) => `${row.ratio.toFixed(3)} x` },
    { key: "low", title: "95 % interval", show: (row) => row.ratio_interval.map((r) => r.toFixed(3)).join(" to "), value: (row) => row.ratio_interval[0] },
    { key: "runs", title: "runs" },
    ...(data.bench.timings.some((timing) => timing.memory_bytes !== null) ? [{ key: "memory_bytes", title: "memory", show: (row) => (row.memory_bytes === null ? "" : `${(row.memory_bytes / 2 ** 20).toFixed(1)} MiB`) }] : []),
  ], data.bench.timings), element("p", { class: "soft" }, `Models took turns on inputs of ${Object.entries(data.bench.shapes).map(([name, shape]) => `${name} [${shape.join(", ")}]`).join(", ")}.`));
}

section("Provenance", texts(data.origin));
