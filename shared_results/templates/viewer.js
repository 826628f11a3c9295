"use strict";
// Volumes are (z, y, x) in LPS: x runs to the patient's left, y to posterior, z to superior.
const facts = JSON.parse(document.getElementById("facts").textContent);
const {shape, spacing} = facts, stride = [shape[1] * shape[2], shape[2], 1];
const PLANES = [  // letters: what lies at the top, bottom, left and right, as radiologists look at it
  {name: "axial", axis: 0, row: 1, column: 2, upwards: false, letters: "APRL"},
  {name: "coronal", axis: 1, row: 0, column: 2, upwards: true, letters: "SIRL"},
  {name: "sagittal", axis: 2, row: 0, column: 1, upwards: true, letters: "SIAP"}];
const PRESETS = {"as in the pictures": facts.window, "soft tissue": [-160, 240], brain: [0, 80], lung: [-1200, 300],
                 bone: [-450, 1050], "all": [-1024, 1500]};
const MISSED = [70, 150, 255], TOO_MUCH = [255, 210, 40], MIXED_UP = [235, 90, 235];
const volumes = {}, on = {crosshair: true}, hidden = new Set(), at = shape.map(size => size >> 1);
const names = ["nothing"], line = [], undrawn = new Uint8Array(256);
for (const entry of facts.labels) {
  [names[entry.label], line[entry.label], undrawn[entry.label]] = [entry.name, entry.line, entry.undrawn];
}
let window_ = [...facts.window], opacity = 0.4, zoom = 1, centre = [...at];
let active = PLANES[0], place = -1, allHidden = false;
const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  volumes[script.dataset.name] = new Uint8Array(await new Response(stream).arrayBuffer());
}

function make(tag, parent, properties) {
  return parent.appendChild(Object.assign(document.createElement(tag), properties));
}

// Little-endian RGBA, as every browser's pixels are.
const pixel = (rgb, alpha) => (Math.round(alpha * 255) << 24 | rgb[2] << 16 | rgb[1] << 8 | rgb[0]) >>> 0;

function tables() {
  const [low, high] = window_, grey = new Uint32Array(256), fill = new Uint32Array(256);
  facts.hu.forEach((hu, level) => {
    const value = Math.round(255 * clamp((hu - low) / (high - low), 0, 1));
    grey[level] = pixel([value, value, value], 1);
  });
  for (const {label, fill: colour} of facts.labels) if (!hidden.has(label)) fill[label] = pixel(colour, opacity);
  const shown = ["prediction", "difference", "disagreement"].map(layer => [layer, on[layer] && !allHidden]);
  return {grey, fill, shown: Object.fromEntries(shown)};
}

function differs(drawn, found) {
  if (drawn === found || !drawn && undrawn[found]) return null;
  return !found ? MISSED : !drawn ? TOO_MUCH : MIXED_UP;
}

function overlaid(i, fill, shown) {
  const {reference, prediction, disagreement} = volumes;
  if (shown.difference) {
    const drawn = reference[i], found = prediction[i], colour = differs(drawn, found);
    if (colour && !hidden.has(drawn) && !hidden.has(found)) return pixel(colour, Math.max(opacity, 0.6));
  }
  if (shown.disagreement && disagreement[i]) {  // 125: an even split
    return pixel([255, Math.min(255, 90 + disagreement[i]), 40], clamp(disagreement[i] / 125, 0.3, 1) * 0.8);
  }
  return shown.prediction ? fill[prediction[i]] : 0;
}

function draw() {
  const colours = tables();
  for (const plane of PLANES) drawPlane(plane, colours);
  const i = at.reduce((sum, value, axis) => sum + value * stride[axis], 0);
  const readout = [`${facts.hu[volumes.ct[i]]} HU`];
  for (const layer of ["reference", "prediction"]) {
    if (volumes[layer]) readout.push(`${layer}: ${names[volumes[layer][i]]}`);
  }
  if (volumes.disagreement) readout.push(`disagreement ${(volumes.disagreement[i] / facts.votesScale).toFixed(2)}`);
  element("where").textContent = readout.join(" · ");
  for (const [id, value] of [["level", (window_[0] + window_[1]) / 2], ["width", window_[1] - window_[0]]]) {
    element(id).value = value;
    element(id).previousElementSibling.textContent = `${Math.round(value)} HU`;
  }
}

// The part of an axis that is in sight, in voxels: [first, length].
function sight(axis) {
  const length = shape[axis] / zoom;
  return [clamp(centre[axis] + 0.5 - length / 2, 0, shape[axis] - length), length];
}

// What part of a plane is in sight, in its own rows and columns from the top left.
function seen({row, column, upwards}) {
  const [left, width] = sight(column), [first, height] = sight(row);
  return {left, width, top: upwards ? shape[row] - first - height : first, height};
}

function drawPlane(plane, {grey, fill, shown}) {
  const {canvas, axis, row, column, upwards} = plane, width = shape[column], height = shape[row];
  const {below, above} = plane, base = at[axis] * stride[axis];
  for (let r = 0, p = 0; r < height; r++) {
    let i = base + (upwards ? height - 1 - r : r) * stride[row];
    for (let c = 0; c < width; c++, p++, i += stride[column]) {
      below.pixels[p] = grey[volumes.ct[i]];
      above.pixels[p] = overlaid(i, fill, shown);
    }
  }
  const context = canvas.getContext("2d"), ratio = devicePixelRatio, part = seen(plane);
  for (const [layer, smooth] of [[below, true], [above, false]]) {
    layer.context.putImageData(layer.image, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.drawImage(layer.context.canvas, part.left, part.top, part.width, part.height,
                      0, 0, canvas.width, canvas.height);
  }
  if (on.reference && !allHidden) outline(plane, context, base, part);
  const x = (at[column] + 0.5 - part.left) / part.width * canvas.width;
  const y = ((upwards ? height - 1 - at[row] : at[row]) + 0.5 - part.top) / part.height * canvas.height;
  if (on.crosshair) {
    context.fillStyle = "rgb(120 220 255 / 50%)";
    const gap = 12 * ratio;  // so that the voxel itself can be seen
    for (const [left, right] of [[0, x - gap], [x + gap, canvas.width]]) context.fillRect(left, y, right - left, 1);
    for (const [top, bottom] of [[0, y - gap], [y + gap, canvas.height]]) context.fillRect(x, top, 1, bottom - top);
  }
  Object.assign(context, {font: `bold ${13 * ratio}px sans-serif`, fillStyle: "#fd6", strokeStyle: "#000",
                          lineWidth: 3 * ratio, textAlign: "center", textBaseline: "middle"});
  const edge = 9 * ratio, middle = [canvas.width / 2, canvas.height / 2];
  [[middle[0], edge], [middle[0], canvas.height - edge], [edge, middle[1]], [canvas.width - edge, middle[1]]].forEach(
    ([left, top], side) => {
      context.strokeText(plane.letters[side], left, top);
      context.fillText(plane.letters[side], left, top);
    });
  plane.slider.value = at[axis];
  plane.caption.textContent = `slice ${sliceOf(axis)} of ${facts.slices[axis]}`;
}

// As the programs number them: from 0, in the whole CT.
const sliceOf = (axis) => facts.start[axis] + at[axis] * facts.steps[axis] + (facts.steps[axis] - 1 >> 1);

function outline({canvas, row, column, upwards}, context, base, part) {
  const width = shape[column], height = shape[row], paths = {};
  const label = (r, c) => {
    if (r < 0 || c < 0 || r >= height || c >= width) return 0;
    const drawn = volumes.reference[base + (upwards ? height - 1 - r : r) * stride[row] + c * stride[column]];
    return hidden.has(drawn) ? 0 : drawn;
  };
  const x = c => (c - part.left) / part.width * canvas.width, y = r => (r - part.top) / part.height * canvas.height;
  const edge = (of, r, c, toR, toC) => {
    const path = paths[of] ??= new Path2D();
    path.moveTo(x(c), y(r));
    path.lineTo(x(toC), y(toR));
  };
  for (let r = 0; r <= height; r++) for (let c = 0; c <= width; c++) {
    const here = label(r, c), left = label(r, c - 1), over = label(r - 1, c);
    if (here !== left) edge(here || left, r, c, r + 1, c);
    if (here !== over) edge(here || over, r, c, r, c + 1);
  }
  context.lineWidth = 1.5 * devicePixelRatio;
  for (const [of, path] of Object.entries(paths)) {
    context.strokeStyle = `rgb(${line[of]})`;
    context.stroke(path);
  }
}

function go(to, intoTheMiddle) {
  to.forEach((value, axis) => { at[axis] = clamp(Math.round(value), 0, shape[axis] - 1); });
  const lost = at.some((value, axis) => value < sight(axis)[0] - 1 || value > sight(axis)[0] + sight(axis)[1]);
  if (lost || intoTheMiddle) centre = [...at];
  draw();
}

function setZoom(value) {
  zoom = clamp(value, 1, 8);
  element("zoom").value = zoom;
  go(at, true);
}

function scroll(axis, slices) {
  go(at.map((value, i) => i === axis ? value + slices : value));
}

function jump(number) {
  if (!facts.places.length) return;
  place = (number + facts.places.length) % facts.places.length;
  [...element("places").querySelectorAll("button")].forEach((button, i) => {
    button.classList.toggle("now", i === place);
    if (i === place) button.scrollIntoView({block: "nearest"});
  });
  go(facts.places[place].at, true);
}

function setWindow(level, width) {
  width = Math.max(width, 10);
  window_ = [level - width / 2, level + width / 2];
  draw();
}

// Make each plane as large as its cell allows, with square millimetres.
function fit() {
  const cell = [element("axial").clientWidth, innerWidth > 800 ? (innerHeight - 70) / 2 - 48 : innerHeight - 120];
  for (const {canvas, row, column} of PLANES) {
    const mm = [column, row].map(axis => shape[axis] * spacing[axis]);
    const scale = Math.min(cell[0] / mm[0], cell[1] / mm[1]);  // pixels per mm
    const size = mm.map(length => Math.max(1, Math.round(length * scale)));
    [canvas.style.width, canvas.style.height] = size.map(length => `${length}px`);
    [canvas.width, canvas.height] = size.map(length => Math.round(length * devicePixelRatio));
  }
  draw();
}

function buildPlane(plane) {
  const figure = element(plane.name), canvas = figure.querySelector("canvas");
  Object.assign(plane, {canvas, slider: figure.querySelector("input"), caption: figure.querySelector("output")});
  for (const layer of ["below", "above"]) {
    const size = {width: shape[plane.column], height: shape[plane.row]};
    const context = Object.assign(document.createElement("canvas"), size).getContext("2d");
    const image = context.createImageData(size.width, size.height);
    plane[layer] = {context, image, pixels: new Uint32Array(image.data.buffer)};
  }
  plane.slider.max = shape[plane.axis] - 1;
  plane.slider.oninput = () => scroll(plane.axis, plane.slider.value - at[plane.axis]);
  canvas.onpointerenter = () => { active = plane; };
  canvas.oncontextmenu = event => event.preventDefault();
  canvas.onwheel = event => {
    event.preventDefault();
    if (event.ctrlKey) setZoom(zoom * (event.deltaY > 0 ? 1 / 1.25 : 1.25));
    else scroll(plane.axis, event.deltaY > 0 ? -1 : 1);
  };
  canvas.onpointerdown = canvas.onpointermove = event => {
    if (!event.buttons) return;
    if (event.type === "pointerdown") canvas.setPointerCapture(event.pointerId);
    if (event.buttons > 1 || event.shiftKey) {
      const [low, high] = window_;
      setWindow((low + high) / 2 + 2 * event.movementY, high - low + 2 * event.movementX);
      return;
    }
    const to = [...at], part = seen(plane);
    const row = Math.floor(part.top + event.offsetY / canvas.clientHeight * part.height);
    to[plane.column] = Math.floor(part.left + event.offsetX / canvas.clientWidth * part.width);
    to[plane.row] = plane.upwards ? shape[plane.row] - 1 - row : row;
    go(to);
  };
}

function buildPanel() {
  const layers = {};
  if (volumes.reference) layers.reference = "reference (lines)";
  layers.prediction = "prediction (filled)";
  if (volumes.reference) layers.difference = "difference";
  if (volumes.disagreement) layers.disagreement = "disagreement of the members";
  layers.crosshair = "cross-hair";
  for (const [number, [name, text]] of Object.entries(layers).entries()) {
    on[name] ??= ["reference", "prediction"].includes(name);
    const label = make("label", element("layers"), {});
    const box = make("input", label, {type: "checkbox", id: name, checked: on[name]});
    label.append(` ${number + 1} ${text}`);
    box.onchange = () => { on[name] = box.checked; draw(); };
    if (name === "difference") {
      for (const [colour, what] of [[MISSED, "missed"], [TOO_MUCH, "too much"], [MIXED_UP, "another label"]]) {
        const legend = make("small", label, {});
        make("i", legend, {}).style.cssText = `background: rgb(${colour}); border-color: rgb(${colour})`;
        legend.append(what);
      }
    }
  }
  const strength = make("label", element("layers"), {textContent: "opacity"});
  make("input", strength, {type: "range", max: 1, step: 0.05, value: opacity}).oninput = event => {
    opacity = +event.target.value;
    draw();
  };
  element("zoom").oninput = event => setZoom(+event.target.value);
  for (const name of Object.keys(PRESETS)) make("option", element("preset"), {textContent: name});
  element("preset").onchange = event => { window_ = [...PRESETS[event.target.value]]; draw(); };
  element("level").oninput = event => setWindow(+event.target.value, window_[1] - window_[0]);
  element("width").oninput = event => setWindow((window_[0] + window_[1]) / 2, +event.target.value);
  for (const {label, name, fill, at: where, undrawn: notContoured} of facts.labels) {
    const row = make("div", element("labels"), {});
    const box = make("input", row, {type: "checkbox", checked: true, ariaLabel: name});
    box.onchange = () => { box.checked ? hidden.delete(label) : hidden.add(label); draw(); };
    make("i", row, {}).style.cssText = `background: rgb(${fill}); border-color: rgb(${line[label]})`;
    make("button", row, {textContent: name, disabled: !where}).onclick = () => go(where, true);
    if (notContoured || !where) make("small", row, {textContent: notContoured ? " not contoured" : " nowhere"});
  }
  const {reference, disagreement} = volumes;
  element("worst-title").textContent = reference ? "Most wrong" : disagreement ? "Most disputed" : "Largest";
  facts.places.forEach(({text}, number) => {
    make("button", make("li", element("places"), {}), {textContent: text}).onclick = () => jump(number);
  });
  if (!facts.places.length) element("places").textContent = reference ? "nothing is wrong" : "nothing was found";
  element("next").onclick = () => jump(place + 1);
  element("previous").onclick = () => jump(place - 1);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const slices = {ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10}[event.key];
  if (slices) scroll(active.axis, slices);
  else if ("+=-".includes(event.key)) setZoom(event.key === "-" ? zoom / 1.25 : zoom * 1.25);
  else if (event.key === "n") jump(place + 1);
  else if (event.key === "p") jump(place - 1);
  else if (event.key === " " && event.target.tagName !== "BUTTON") { allHidden = !allHidden; draw(); }
  else if (element("layers").querySelectorAll("[type=checkbox]")[event.key - 1]) {
    element("layers").querySelectorAll("[type=checkbox]")[event.key - 1].click();
  } else return;
  event.preventDefault();
}

async function start() {
  if (!self.DecompressionStream) throw Error("the browser is older than Chrome 80, Firefox 113 or Safari 16.4");
  await Promise.all([...document.querySelectorAll(".packed")].map(unpack));
  PLANES.forEach(buildPlane);
  buildPanel();
  addEventListener("keydown", onKey);
  addEventListener("resize", fit);
  if (facts.places.length) jump(0);
  fit();
}
const ready = start().catch(error => { element("where").textContent = `cannot show this case: ${error.message}`; });
