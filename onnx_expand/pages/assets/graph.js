"use strict";
// A graph drawn by scope. Names come from a model and are only inserted as text nodes.

const SVG = "http://www.w3.org/2000/svg";
const VISIBLE = 60; // most boxes when a graph is first shown
const CHUNK = 40; // nodes of one box if names have no scopes

function element(tag, attributes, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "line", "circle", "title", "defs", "marker"].includes(tag);
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) {
      made.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }
  return made;
}

// The tree of scopes: inner items have children, leaves are nodes of the graph.
function scopes(nodes) {
  const root = { path: "", title: "", children: new Map(), node: null, size: nodes.length };
  const parts = nodes.map((n) => [...n.name.matchAll(/[^./]+/g)].map((part) => n.name.slice(0, part.index + part[0].length)));
  const tops = new Set(parts.map((p) => p[0]));
  const flat = nodes.length > VISIBLE && tops.size > nodes.length / 2;
  nodes.forEach((node, place) => {
    const scope = flat ? [`nodes ${Math.floor(place / CHUNK) * CHUNK + 1} ...`] : parts[place].slice(0, -1);
    let at = root;
    for (const title of scope) {
      const path = `/${title}`;
      if (!at.children.has(path)) at.children.set(path, { path, title, children: new Map(), node: null, size: 0 });
      at = at.children.get(path);
      at.size += 1;
    }
    at.children.set(`#${node.id}`, { path: `#${node.id}`, title: node.name, children: new Map(), node, size: 1 });
  });
  return root;
}

class Picture {
  constructor(drawing, place, siteOf, choose) {
    this.drawing = drawing;
    this.place = place;
    this.siteOf = siteOf;
    this.choose = choose;
    this.tree = scopes(drawing.nodes);
    this.open = new Set();
    this.zoom = 1;
    this.chosen = new Set();
    this.parents = new Map();
    this.note(this.tree, null);
    this.unfold();
    this.holder = element("div", { class: "graph", role: "group", "aria-label": `graph ${drawing.title}` });
    this.tools = element("div", { class: "tools" },
      element("b", {}, drawing.title), element("span", { class: "soft" }, `${drawing.nodes.length} nodes`),
      element("button", { type: "button", onclick: () => this.scale(1.25) }, "larger"),
      element("button", { type: "button", onclick: () => this.scale(0.8) }, "smaller"),
      element("button", { type: "button", onclick: () => { this.open.clear(); this.unfold(); this.draw(); } }, "by scope"));
    this.root = element("div", {}, this.tools, this.holder);
  }

  note(at, parent) {
    this.parents.set(at.path, parent);
    for (const child of at.children.values()) this.note(child, at);
  }

  // Open scopes from the outside in, as long as there are few boxes.
  unfold() {
    let wave = [this.tree];
    let count = this.tree.children.size;
    while (wave.length) {
      const next = [];
      for (const at of wave) {
        for (const child of at.children.values()) {
          const more = child.children.size - 1;
          if (!child.node && count + more <= VISIBLE) {
            count += more;
            this.open.add(child.path);
            next.push(child);
          }
        }
      }
      wave = next;
    }
  }

  boxes() {
    const found = [];
    const walk = (at) => {
      for (const child of at.children.values()) {
        if (!child.node && this.open.has(child.path)) walk(child);
        else found.push(child);
      }
    };
    walk(this.tree);
    return found;
  }

  reveal(ids) {
    this.chosen = new Set(ids);
    for (const id of ids) {
      let at = this.parents.get(`#${id}`);
      while (at && at.path) { this.open.add(at.path); at = this.parents.get(at.path); }
    }
    this.draw();
    const first = this.holder.querySelector(".chosen");
    if (first) {
      const box = first.getBoundingClientRect();
      const own = this.holder.getBoundingClientRect();
      this.holder.scrollBy(box.left - own.left - own.width / 2, box.top - own.top - own.height / 2);
    }
  }

  scale(factor) {
    this.zoom = Math.min(4, Math.max(0.1, this.zoom * factor));
    this.size();
  }

  size() {
    const svg = this.holder.firstChild;
    svg.setAttribute("width", this.width * this.zoom);
    svg.setAttribute("height", this.height * this.zoom);
  }

  draw() {
    const graph = new dagre.graphlib.Graph({ multigraph: false });
    graph.setGraph({ rankdir: "TB", nodesep: 14, ranksep: 26, marginx: 12, marginy: 12 });
    graph.setDefaultEdgeLabel(() => ({}));
    const boxes = this.boxes();
    const home = new Map();
    const leaves = (at, box) => {
      if (at.node) home.set(at.node.id, box.path);
      for (const child of at.children.values()) leaves(child, box);
    };
    const writer = new Map();
    for (const box of boxes) {
      leaves(box, box);
      const lines = this.lines(box);
      graph.setNode(box.path, { width: 18 + 6.7 * Math.max(...lines.map((l) => l.length)), height: 12 + 14 * lines.length, lines, box });
    }
    for (const node of this.drawing.nodes) for (const name of node.writes) writer.set(name, home.get(node.id));
    for (const name of this.drawing.inputs) {
      graph.setNode(`>${name}`, { width: 14 + 6.6 * Math.min(name.length, 28), height: 24, lines: [cut(name)], port: true });
      writer.set(name, `>${name}`);
    }
    for (const node of this.drawing.nodes) {
      for (const name of node.reads) {
        const from = writer.get(name);
        const to = home.get(node.id);
        if (from && from !== to) graph.setEdge(from, to);
      }
    }
    for (const name of this.drawing.outputs) {
      graph.setNode(`<${name}`, { width: 14 + 6.6 * Math.min(name.length, 28), height: 24, lines: [cut(name)], port: true });
      if (writer.has(name)) graph.setEdge(writer.get(name), `<${name}`);
    }
    dagre.layout(graph);
    // The extents that dagre reports do not include edges around the outside of all nodes.
    const { width, height } = graph.graph();
    const bends = graph.edges().flatMap((edge) => graph.edge(edge).points.map((p) => p.x));
    const left = Math.floor(Math.min(0, ...bends.map((x) => x - 8)));
    const right = Math.ceil(Math.max(width || 0, 60, ...bends.map((x) => x + 8)));
    this.width = right - left;
    this.height = Math.max(height || 0, 40);
    const svg = element("svg", { viewBox: `${left} 0 ${this.width} ${this.height}`, role: "img" });
    for (const edge of graph.edges()) {
      const points = graph.edge(edge).points.map((p) => `${p.x.toFixed(1)},${p.y.toFixed(1)}`);
      svg.append(element("path", { d: `M${points.join("L")}` }));
    }
    for (const name of graph.nodes()) svg.append(this.shape(graph.node(name)));
    this.holder.replaceChildren(svg);
    this.size();
  }

  lines(box) {
    if (box.node) return [box.node.op, cut(box.title)];
    return [cut(box.title), `${box.size} nodes`];
  }

  shape(at) {
    const x = at.x - at.width / 2;
    const y = at.y - at.height / 2;
    const box = at.box;
    const sites = box ? this.sites(box) : [];
    const chosen = box && [...this.chosen].some((id) => this.within(box, id));
    const fill = sites.length ? colour(sites[0]) : null;
    const rect = element("rect", {
      x, y, width: at.width, height: at.height, rx: at.port ? 12 : 4,
      class: ["box", box && !box.node ? "scope" : "", chosen ? "chosen" : ""].join(" ").trim(),
      style: fill ? `fill:${fill}` : null,
    });
    const texts = at.lines.map((line, i) => element("text", {
      x: at.x, y: y + 16 + 14 * i, "text-anchor": "middle", "font-weight": i === 0 ? 600 : null,
    }, line));
    if (!box) return element("g", {}, rect, texts);
    const act = () => {
      if (box.node) this.choose(this.place, box.node);
      else { this.open.add(box.path); this.draw(); }
    };
    const title = box.node ? box.title : `${box.title}: ${box.size} nodes; click to open`;
    return element("g", {
      tabindex: 0, role: "button", "aria-label": `${at.lines.join(" ")}`, "data-name": box.title,
      onclick: act, onkeydown: (event) => { if (event.key === "Enter") act(); },
    }, element("title", {}, title), rect, texts);
  }

  within(box, id) {
    let at = this.parents.has(`#${id}`) ? `#${id}` : null;
    while (at) {
      if (at === box.path) return true;
      const parent = this.parents.get(at);
      at = parent ? parent.path : null;
    }
    return false;
  }

  sites(box) {
    if (box.node) return this.siteOf.has(box.node.name) ? [this.siteOf.get(box.node.name)] : [];
    const found = [];
    const walk = (at) => {
      if (found.length) return;
      if (at.node && this.siteOf.has(at.node.name)) found.push(this.siteOf.get(at.node.name));
      for (const child of at.children.values()) walk(child);
    };
    walk(box);
    return found;
  }
}

function cut(name) {
  return name.length > 28 ? `...${name.slice(-25)}` : name;
}

function colour(site) {
  return `hsl(${(site * 137.5) % 360} 65% 72% / .55)`;
}
