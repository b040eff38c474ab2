// The page of attention_page: plays the frames, draws the attention of one node. No library, no network.
"use strict";
const PREFERS = 1.1; // multiple of an even share from which an arrow is drawn
const MOST_ARROWS = 12, MOST_ROWS = 6, MOST_LINES = 4000;
const COLORS = ["#c8553d", "#5b8db8", "#7a9e5f", "#b08a3e", "#8a6fa0"];
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const buffer = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const source = new Uint32Array(buffer(data.source)), target = new Uint32Array(buffer(data.target));
const layers = data.layers.map((layer) => ({ heads: layer.heads, alpha: new Uint16Array(buffer(layer.alpha)) }));
const numEdges = source.length, numNodes = data.types.length, numFrames = data.seconds.length;
const images = data.frames.map((text) => Object.assign(new Image(), { src: "data:image/jpeg;base64," + text }));
const canvas = $("picture"), pen = canvas.getContext("2d");
const state = { frame: data.steps[0], node: -1, type: "0", layer: "mean", head: "mean", arrows: "both", timer: 0 };
const times = (value) => value.toFixed(value < 9.95 ? 1 : 0) + "\u00d7";

/** The time step whose frame is nearest to the current one. */
function nearestStep() {
  let best = 0;
  data.steps.forEach((frame, t) => {
    if (Math.abs(frame - state.frame) <= Math.abs(data.steps[best] - state.frame)) best = t;
  });
  return best;
}

/** The attention of a step, mean over the chosen rounds and heads, as multiples of an even share: of every edge
 *  (`share`), and that every node receives (`received`). A neighbor whose coefficients are all zero is absent. */
function attention(step) {
  const alpha = new Float64Array(numEdges), degree = new Float64Array(numNodes), present = new Uint8Array(numEdges);
  const chosen = state.layer === "mean" ? layers : [layers[+state.layer]];
  for (const layer of layers) {
    const { heads, alpha: all } = layer, one = state.head !== "mean" && +state.head < heads;
    const weight = chosen.includes(layer) ? 1 / 65535 / chosen.length / (one ? 1 : heads) : 0;
    for (let e = 0; e < numEdges; e++) {
      for (let h = 0; h < heads; h++) {
        const value = all[(step * numEdges + e) * heads + h];
        if (value) present[e] = 1;
        if (!one || h === +state.head) alpha[e] += weight * value;
      }
    }
  }
  for (let e = 0; e < numEdges; e++) degree[target[e]] += present[e];
  const received = new Float64Array(numNodes), even = new Float64Array(numNodes);
  for (let e = 0; e < numEdges; e++) {
    if (present[e]) even[source[e]] += 1 / degree[target[e]];
    received[source[e]] += alpha[e];
  }
  return {
    share: alpha.map((value, e) => value * degree[target[e]]),
    received: received.map((value, i) => (even[i] > 0 ? value / even[i] : 0)),
    degree,
    present,
  };
}

/** The edges into a node ("listens") or out of it ("heard"), the strongest first. */
function edges({ share, present }, node, kind) {
  const end = kind === "listens" ? target : source;
  const found = [];
  for (let e = 0; e < numEdges; e++) if (end[e] === node && present[e]) found.push(e);
  return found.sort((a, b) => share[b] - share[a]);
}

const positions = () => data.pos[data.pos.length > 1 ? nearestStep() : 0];
const shown = (node) => state.type === "all" || data.types[node] === +state.type;

/** Where a node is on the canvas, in pixels. Scales are moved apart, as their centers may coincide. */
function place(node) {
  const [x, y] = positions()[node], { x0, y0, width, height } = data.bounds;
  const apart = data.regions ? (data.types[node] - (data.typeNames.length - 1) / 2) * 16 * small() : 0;
  return [((x - x0) / width) * canvas.clientWidth + apart, ((y - y0) / height) * canvas.clientHeight + apart];
}

function box(node) {
  const [x0, y0, x1, y1] = data.regions[node], w = canvas.clientWidth, h = canvas.clientHeight;
  return [x0 * w, y0 * h, (x1 - x0) * w, (y1 - y0) * h];
}

/** Strokes the current path with a dark or light rim, so that it is seen on any picture. */
function stroke(color, width, opacity = 1) {
  pen.globalAlpha = 0.6 * opacity;
  pen.strokeStyle = images.length ? "#000" : css("--page");
  pen.lineWidth = width + 2.5;
  pen.stroke();
  pen.globalAlpha = opacity;
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.stroke();
  pen.globalAlpha = 1;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const bright = { "--listens": "#ff6ab8", "--heard": "#4fc3ff", "--received": "#ffd400", "--ink": "#fff" };
const color = (name) => (images.length ? bright[name] : css(name)); // on a picture, as in the dark
const small = () => Math.max(0.55, Math.min(1, canvas.clientWidth / 620)); // all is smaller on a phone
const radius = (received) => small() * (2.5 + 5 * Math.sqrt(Math.min(received, 6)));

function arrow(from, to, share, received, name) {
  const strength = Math.min(1, Math.log2(share) / 2); // 1 from four times an even share
  const [x0, y0] = place(from), [x1, y1] = place(to), length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 1) return;
  const cx = (x0 + x1) / 2 + (y1 - y0) * 0.16, cy = (y0 + y1) / 2 - (x1 - x0) * 0.16;
  const angle = Math.atan2(y1 - cy, x1 - cx), gap = Math.min(radius(received[to]) + 2, length / 3);
  const x = x1 - gap * Math.cos(angle), y = y1 - gap * Math.sin(angle), size = small() * (7 + 8 * strength);
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.quadraticCurveTo(cx, cy, x, y);
  pen.moveTo(x - size * Math.cos(angle - 0.45), y - size * Math.sin(angle - 0.45));
  pen.lineTo(x, y);
  pen.lineTo(x - size * Math.cos(angle + 0.45), y - size * Math.sin(angle + 0.45));
  stroke(color(name), small() * (1.2 + 5 * strength), 0.75 + 0.25 * strength);
}

function draw(found) {
  const { share, received } = found;
  const ratio = window.devicePixelRatio || 1, { width, height } = data.bounds;
  canvas.style.aspectRatio = `${width * data.aspect} / ${height}`;
  canvas.style.maxWidth = `calc(80vh * ${(width * data.aspect) / height})`;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  pen.scale(ratio, ratio);
  pen.lineCap = pen.lineJoin = "round";
  const image = images[state.frame];
  if (image && image.complete) pen.drawImage(image, 0, 0, canvas.clientWidth, canvas.clientHeight);
  if (!data.regions) {
    pen.beginPath();
    for (let e = 0; e < Math.min(numEdges, MOST_LINES); e++) {
      pen.moveTo(...place(source[e]));
      pen.lineTo(...place(target[e]));
    }
    pen.strokeStyle = images.length ? "#ffffff99" : css("--line");
    pen.stroke();
  }
  const arrows = [];
  if (state.node >= 0) {
    for (const kind of ["heard", "listens"]) {
      if (state.arrows !== kind && state.arrows !== "both") continue;
      const strong = edges(found, state.node, kind).filter((e) => share[e] >= PREFERS && source[e] !== target[e]);
      for (const e of strong.slice(0, MOST_ARROWS)) arrows.push({ e, kind });
    }
  }
  for (let i = 0; i < numNodes; i++) {
    if (!data.regions || !shown(i)) continue;
    pen.strokeStyle = "#ffffff88";
    pen.lineWidth = 1;
    pen.strokeRect(...box(i));
  }
  for (const { e, kind } of arrows) {
    const other = kind === "listens" ? source[e] : target[e];
    if (!data.regions || data.types[other] === data.types[state.node]) continue;
    pen.beginPath();
    pen.rect(...box(other));
    pen.setLineDash([6, 6]);
    stroke(color("--" + kind), 1.5, 0.8);
    pen.setLineDash([]);
  }
  if (state.node >= 0 && data.regions) {
    const [x, y, w, h] = box(state.node);
    pen.beginPath();
    pen.rect(x + 2, y + 2, w - 4, h - 4);
    stroke(color("--ink"), 2.5);
  }
  const ends = new Set(arrows.flatMap(({ e }) => [source[e], target[e]]));
  for (let i = 0; i < numNodes; i++) {
    if (!shown(i) && !ends.has(i) && i !== state.node) continue;
    pen.beginPath();
    pen.arc(...place(i), radius(received[i]), 0, 7);
    pen.globalAlpha = 0.75;
    pen.fillStyle = color("--received");
    pen.fill();
    stroke(i === state.node ? color("--ink") : "#0008", i === state.node ? 2.5 : 1);
  }
  for (const { e, kind } of arrows.reverse()) arrow(source[e], target[e], share[e], received, "--" + kind);
  if (state.node >= 0 && arrows.length === 0) label("no preference", ...place(state.node));
}

function label(text, x, y) {
  pen.font = "600 14px system-ui, sans-serif";
  const width = pen.measureText(text).width + 14;
  const left = Math.max(4, Math.min(x - width / 2, canvas.clientWidth - width - 4));
  pen.fillStyle = "#000b";
  pen.fillRect(left, y + 16, width, 24);
  pen.fillStyle = "#fff";
  pen.fillText(text, left + 7, y + 33);
}

/** Rows of a name, a value and a bar. Rows are kept, so that the focus stays while a video plays. */
function rows(element, wanted, click) {
  while (element.children.length > wanted.length) element.lastChild.remove();
  while (element.children.length < wanted.length) {
    const row = document.createElement(click ? "button" : "div");
    row.append(document.createElement("span"), document.createElement("span"), document.createElement("div"));
    row.lastChild.className = "bar";
    row.lastChild.append(document.createElement("i"));
    element.append(row);
  }
  wanted.forEach(({ name, value, share, color, node }, k) => {
    const [left, right, bar] = element.children[k].children;
    left.textContent = name;
    right.textContent = value;
    bar.firstChild.style.width = 100 * Math.min(1, share) + "%";
    element.children[k].style.setProperty("--color", color);
    if (click) element.children[k].onclick = () => click(node);
  });
}

function describe(attention) {
  const { share, received, degree } = attention, node = state.node;
  $("lists").hidden = node < 0;
  $("name").textContent = node < 0 ? "Click a node" : data.names[node];
  $("received").textContent =
    node < 0 ? "to see whom it listens to and who listens to it." : `receives ${times(received[node])} of even shares`;
  if (node < 0) return;
  const full = Math.max(3, ...share);
  for (const kind of ["listens", "heard"]) {
    const found = edges(attention, node, kind), preferred = found.filter((e) => share[e] >= PREFERS);
    const list = preferred.length ? (kind === "listens" ? found : preferred).slice(0, MOST_ROWS) : [];
    let note = "";
    if (found.length === 0) note = kind === "listens" ? "nobody" : "by nobody";
    else if (kind === "listens" && degree[node] === 1) note = "its only neighbor: " + data.names[source[found[0]]];
    else if (list.length === 0)
      note = kind === "listens" ? `no preference: ${found.length} neighbors about evenly`
        : "no preference: nobody listens to it more than to others";
    $(kind + "-note").textContent = note;
    $(kind).style.setProperty("--even", 100 / full + "%");
    rows($(kind), list.map((e) => {
      const other = kind === "listens" ? source[e] : target[e];
      const name = other === node ? "itself" : data.names[other];
      return { name, value: times(share[e]), share: share[e] / full, color: `var(--${kind})`, node: other };
    }), select);
  }
}

function classes() {
  $("classes").hidden = data.classes.length === 0;
  if (data.classes.length === 0) return;
  const many = data.probabilities.length > 1, now = data.probabilities[many ? nearestStep() : 0];
  rows($("legend"), data.classes.map((name, k) => (
    { name, value: (100 * now[k]).toFixed(1) + "%", share: now[k], color: COLORS[k % COLORS.length] })));
  $("classes-note").textContent = many ? "after the frames so far" : "of the whole clip";
  $("chart").toggleAttribute("hidden", !many);
  if (!many) return;
  const x = (frame) => (1000 * frame) / Math.max(1, numFrames - 1);
  $("chart").setAttribute("viewBox", "0 -2 1000 104");
  const line = (points, color, width) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    element.setAttribute("points", points.map((point) => point.join()).join(" "));
    element.setAttribute("vector-effect", "non-scaling-stroke");
    Object.assign(element.style, { fill: "none", stroke: color, strokeWidth: width });
    return element;
  };
  const lines = [0, 50, 100].map((y) => line([[0, y], [1000, y]], "var(--line)", 1));
  data.classes.forEach((_, k) => {
    const points = data.probabilities.map((row, t) => [x(data.steps[t]), 100 - 100 * row[k]]);
    lines.push(line(points, COLORS[k % COLORS.length], 2.2));
  });
  lines.push(line([[x(state.frame), 0], [x(state.frame), 100]], "var(--ink)", 1.2));
  $("chart").replaceChildren(...lines);
}

function show() {
  const found = attention(nearestStep());
  $("time").value = state.frame;
  $("caption").textContent = data.captions[state.frame];
  draw(found);
  describe(found);
  classes();
}

function seek(frame) {
  state.frame = Math.max(0, Math.min(numFrames - 1, frame));
  show();
}

function select(node) {
  state.node = node;
  if (node >= 0 && !shown(node)) state.type = $("type").value = String(data.types[node]);
  show();
}

/** Starts or stops; every frame is shown as long as its times say. */
function play(on) {
  clearTimeout(state.timer);
  state.timer = 0;
  $("play").textContent = on ? "\u275a\u275a" : "\u25b6\ufe0e";
  if (!on) return;
  const next = (state.frame + 1) % numFrames;
  const wait = next ? data.seconds[next] - data.seconds[state.frame] : 1; // a second at the end
  state.timer = setTimeout(() => { seek(next); play(true); }, Math.max(20, 1000 * wait));
}

function pause(frame) {
  play(false);
  seek(frame);
}

function nodeAt(x, y) {
  let best = -1, least = Infinity;
  for (let i = 0; i < numNodes; i++) {
    if (!shown(i)) continue;
    if (data.regions) {
      const [left, top, w, h] = box(i);
      if (x >= left && x < left + w && y >= top && y < top + h && w * h < least) [best, least] = [i, w * h];
      continue;
    }
    const [px, py] = place(i), distance = Math.hypot(px - x, py - y);
    if (distance < 40 && distance < least) [best, least] = [i, distance];
  }
  return best;
}

function choices(id, names, key) {
  $(id).replaceChildren(...names.map(([value, text]) => new Option(text, value)));
  $(id).parentNode.hidden = names.length < 2;
  $(id).value = state[key];
  $(id).onchange = () => { state[key] = $(id).value; show(); };
}

const numbered = (count) => [...Array(count).keys()].map((k) => [k, k + 1]);
const mean = (list) => (list.length > 1 ? [["mean", "mean"], ...list] : list);
const types = data.typeNames.map((name, k) => [k, name]);
if (!data.regions) state.type = "all";
choices("type", data.regions ? types : [["all", "all"], ...(types.length > 1 ? types : [])], "type");
choices("layer", mean(numbered(layers.length)), "layer");
choices("head", mean(numbered(Math.max(...layers.map((layer) => layer.heads)))), "head");
if (layers.length === 1) state.layer = "mean";
$("type").previousSibling.data = data.regions ? "Scale" : "Nodes";
$("layer").previousSibling.data = data.regions ? "Round" : "Layer";
$("arrows").onchange = () => { state.arrows = $("arrows").value; show(); };
$("title").textContent = data.title;
$("subtitle").textContent = data.subtitle;
$("time").max = numFrames - 1;
$("ticks").replaceChildren(...data.steps.map((frame) => new Option("", frame)));
$("between").hidden = data.steps.length === numFrames;
$("player").hidden = numFrames < 2;
canvas.className = images.length ? "" : "empty";
$("time").oninput = () => pause(+$("time").value);
$("play").onclick = () => play(!state.timer);
$("back").onclick = () => pause(state.frame - 1);
$("forth").onclick = () => pause(state.frame + 1);
$("chart").onclick = (event) => {
  const area = $("chart").getBoundingClientRect();
  pause(Math.round(((event.clientX - area.left) / area.width) * (numFrames - 1)));
};
canvas.onclick = (event) => select(nodeAt(event.offsetX, event.offsetY));
const keys = {
  " ": () => play(!state.timer),
  ArrowLeft: () => pause(state.frame - 1),
  ArrowRight: () => pause(state.frame + 1),
  ",": () => pause(data.steps.findLast((frame) => frame < state.frame) ?? 0),
  ".": () => pause(data.steps.find((frame) => frame > state.frame) ?? numFrames - 1),
  n: () => select((state.node + 1) % numNodes),
  p: () => select((Math.max(state.node, 0) + numNodes - 1) % numNodes),
  Escape: () => select(-1),
};
document.onkeydown = (event) => {
  const own = event.target.closest("select, input") || (event.key === " " && event.target.closest("button"));
  if (own || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
};
window.onresize = show;
matchMedia("(prefers-color-scheme: dark)").onchange = show;
images.forEach((image, k) => { image.onload = () => { if (k === state.frame) show(); }; });
show();
const first = attention(nearestStep()).received.map((value, i) => (shown(i) ? value : -1));
select(first.indexOf(Math.max(...first))); // the page opens with the node that receives the most
