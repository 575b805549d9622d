// The viewer: a canvas in place of the film's picture, with window and level, zoom, a ruler and the
// outlines of what the model's evidence is made of. Without it, the page shows the picture and its
// heat maps; nothing is sent or stored.

const [LEVELS, FEWER] = [65536, 4096]; // greys of the film, and of the smaller one that is dragged
const DRAGGED = 640; // longest side of the film that is drawn while something moves
// Okabe and Ito's colours, which people without colour vision tell apart, the dark ones left out.
const COLOURS = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#00b98a", "#ff7043", "#ffffff"];
const ICONS = {
  window: "M10 2a8 8 0 1 0 0 16a8 8 0 1 0 0-16zM10 2v16a8 8 0 1 1 0-16z",
  pan: "M10 2v16M2 10h16M10 2 7.5 4.5M10 2l2.5 2.5M10 18l-2.5-2.5M10 18l2.5-2.5M2 10l2.5-2.5M2 10l2.5 2.5M18 10l-2.5-2.5M18 10l-2.5 2.5",
  ruler: "M2 13 13 2l5 5L7 18zM5 10l2 2M8 7l3 3M11 4l2 2",
  invert: "M3 3h14v14H3zM3 17 17 3v14z",
  turn: "M16 10a6 6 0 1 1-2-4.5M14 2v4h-4",
  mirror: "M10 2v16M7 5v10H2zM13 5v10h5z",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  reset: "M4 10a6 6 0 1 0 2-4.5M6 2v4h4",
  full: "M11 3h6v6M17 3l-6 6M9 17H3v-6M3 17l6-6",
};

class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.reading = figure.closest(".reading");
    this.frame = figure.querySelector(".frame");
    this.picture = this.frame.querySelector(":scope > img");
    this.spacing = figure.dataset.spacing ? figure.dataset.spacing.split(" ").map(Number) : null;
    this.reduction = Number(figure.dataset.reduction);
    this.maps = [...this.frame.querySelectorAll(".maps > div")].map((part) => ({ part }));
    Object.assign(this, { tool: "window", heat: "off", hidden: false, opacity: 0.7 });
    Object.assign(this, { rulers: [], pointers: new Map(), moving: false, painted: "" });
  }

  async load() {
    const shown = await pixels(this.picture);
    [this.width, this.height] = [shown.width, shown.height];
    const lower = this.figure.dataset.lower;
    const fine = lower ? (await pixels(await loaded(lower))).data : shown.data; // 257 x in 16 bits
    this.grey = new Uint16Array(this.width * this.height);
    for (let i = 0; i < this.grey.length; i++) this.grey[i] = (shown.data[4 * i] << 8) | fine[4 * i];
    delete this.figure.dataset.lower; // it is in memory now
    this.full = layerOf(this.grey, this.width, this.height);
    this.small = smaller(this.full);
    this.ranks = percentiles(this.small);
    for (const map of this.maps) {
      const { data, width, height } = await pixels(await loaded(map.part.dataset.shares));
      Object.assign(map, outline(data, width, height, this.width, this.height));
    }
    this.furnish();
    this.restore();
    this.listen();
    this.choose();
  }

  // ------------------------------------------------------------------------- its furniture

  furnish() {
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The film. Press the question mark for its keys.");
    this.frame.append(this.canvas);
    this.bar = element("div", "tools");
    this.bar.setAttribute("role", "toolbar");
    this.bar.setAttribute("aria-label", "Tools for the film");
    for (const name of ["window", "pan", "ruler", "invert", "turn", "mirror", "fit", "reset", "full"]) {
      this.bar.append(this.button(name, `<svg viewBox="0 0 20 20" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`));
    }
    this.bar.append(this.button("keys", "?"));
    const presets = element("div", "presets");
    for (const name of ["stored", "range", "lung", "bone"]) presets.append(this.button(name, LABELS[name]));
    this.options = element("div", "heat");
    if (this.maps.length) {
      for (const name of ["off", "outline", "wash", "all"]) this.options.append(this.button(name, LABELS[name]));
      this.slider = element("input", "opacity");
      Object.assign(this.slider, { type: "range", min: 0.1, max: 1, step: 0.1, value: this.opacity });
      this.slider.setAttribute("aria-label", "Opacity of the wash");
      this.slider.addEventListener("input", () => this.fade(Number(this.slider.value) - this.opacity));
      this.options.append(this.slider);
    }
    this.keys = element("div", "keys");
    Object.assign(this.keys, { popover: "auto", tabIndex: 0 });
    this.keys.innerHTML = `<h3>Keys of the viewer</h3><dl>${Object.values(ACTIONS)
      .map(([key, text]) => `<dt><kbd>${key.replace(" ", "</kbd> <kbd>")}</kbd></dt><dd>${text}</dd>`)
      .join("")}</dl><p>${HELP}</p>`;
    this.figure.querySelector(".controls").before(this.bar, presets, this.options);
    this.figure.append(this.keys);
    this.figure.removeAttribute("popover");
    this.reading.popover = "auto";
    this.figure.classList.add("viewing");
  }

  button(name, inside) {
    const button = element("button");
    button.type = "button";
    button.innerHTML = inside;
    button.dataset.action = name;
    const [key, text] = ACTIONS[name];
    button.title = `${text} (${key})`;
    if (!LABELS[name]) button.setAttribute("aria-label", text); // an icon
    button.addEventListener("click", () => this.act(name));
    return button;
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.release(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.near(this.zoom > 1.01 ? 1 : this.zoom * this.oneToOne(), this.at(event)));
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.reading.addEventListener("keydown", (event) => this.isFull() && this.key(event));
    this.reading.addEventListener("click", (event) => {
      if (!event.target.matches('.findings input[type="radio"]')) return;
      if (this.heat === "off" && !this.hidden) this.heat = "outline";
      this.choose();
    });
    this.reading.addEventListener("toggle", (event) => event.target === this.reading && this.resize());
    new ResizeObserver(() => this.resize()).observe(this.frame);
  }

  // ------------------------------------------------------------------------------ actions

  act(name) {
    const does = {
      window: () => (this.tool = name), pan: () => (this.tool = name), ruler: () => (this.tool = name),
      invert: () => (this.inverted = !this.inverted),
      turn: () => (this.turned = (this.turned + 1) % 4), back: () => (this.turned = (this.turned + 3) % 4),
      mirror: () => (this.mirrored = !this.mirrored),
      fit: () => this.centre(), one: () => this.near(this.zoom * this.oneToOne()),
      nearer: () => this.near(this.zoom * 1.25), farther: () => this.near(this.zoom / 1.25),
      reset: () => this.restore(), clear: () => (this.rulers = []),
      stored: () => this.range(0, 1), range: () => this.range(this.ranks(0), this.ranks(1)),
      lung: () => this.range(this.ranks(0.005), this.ranks(0.7)), bone: () => this.range(this.ranks(0.4), this.ranks(0.999)),
      off: () => this.show("off"), outline: () => this.show("outline"), wash: () => this.show("wash"), all: () => this.show("all"),
      fainter: () => this.fade(-0.1), stronger: () => this.fade(0.1),
      next: () => this.step(1), previous: () => this.step(-1),
      full: () => this.reading.togglePopover(), keys: () => this.keys.togglePopover(),
    };
    does[name]();
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.matches('input:not([type="radio"])');
    const name = Object.keys(ACTIONS).find((each) => ACTIONS[each][0].split(" ").includes(event.key));
    if (name && !typing) {
      event.preventDefault();
      this.act(name);
    } else if (event.key.startsWith("Arrow") && event.target === this.canvas) {
      event.preventDefault();
      const step = 40 * this.ratio;
      const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      this.shift(x * step, y * step);
      this.draw();
    }
  }

  show(heat) {
    this.heat = heat;
    this.hidden = heat === "off";
  }

  fade(by) {
    this.opacity = Math.min(1, Math.max(0.1, this.opacity + by));
    this.slider.value = this.opacity;
    this.draw();
  }

  step(by) {
    const rows = [...this.reading.querySelectorAll('.findings input[type="radio"]')];
    const place = rows.findIndex((row) => row.checked);
    rows[(place + by + rows.length) % rows.length].click();
  }

  restore() {
    Object.assign(this, { inverted: false, turned: 0, mirrored: false, rulers: [] });
    this.range(0, 1);
    this.centre();
    if (this.ratio) this.draw();
  }

  centre() {
    Object.assign(this, { zoom: 1, x: this.width / 2, y: this.height / 2 });
  }

  range(low, high) {
    this.level = (low + high) / 2;
    this.spread = Math.max(0.004, high - low);
  }

  isFull() {
    return this.reading.matches(":popover-open");
  }

  // ----------------------------------------------------------------------------- geometry

  resize() {
    const box = this.frame.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * this.ratio), Math.round(box.height * this.ratio)];
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.draw();
  }

  // Pixels of the canvas for one of the film.
  scale() {
    const [w, h] = this.turned % 2 ? [this.height, this.width] : [this.width, this.height];
    return this.zoom * Math.min(this.canvas.width / w, this.canvas.height / h);
  }

  // By how much to zoom so that one pixel of the screen is one of the film.
  oneToOne() {
    return 1 / this.scale();
  }

  matrix() {
    const scale = this.scale();
    return new DOMMatrix()
      .translate(this.canvas.width / 2, this.canvas.height / 2)
      .scale(this.mirrored ? -scale : scale, scale)
      .rotate(90 * this.turned)
      .translate(-this.x, -this.y);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) * this.ratio, y: (event.clientY - box.top) * this.ratio };
  }

  onFilm(point) {
    return this.matrix().inverse().transformPoint(point);
  }

  // Zoom, with a point of the canvas kept where it is.
  near(zoom, point = { x: this.canvas.width / 2, y: this.canvas.height / 2 }) {
    const before = this.onFilm(point);
    this.zoom = Math.min(40, Math.max(0.25, zoom));
    const after = this.onFilm(point);
    this.x += before.x - after.x;
    this.y += before.y - after.y;
    this.draw();
  }

  shift(dx, dy) {
    const matrix = this.matrix().inverse();
    Object.assign(matrix, { e: 0, f: 0 });
    const by = matrix.transformPoint({ x: dx, y: dy });
    this.x = Math.min(this.width, Math.max(0, this.x - by.x));
    this.y = Math.min(this.height, Math.max(0, this.y - by.y));
  }

  // --------------------------------------------------------------------- pointer and touch

  press(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const point = this.at(event);
    this.pointers.set(event.pointerId, point);
    if (this.pointers.size > 1) this.does = "pinch";
    else if (event.button === 1 || event.shiftKey) this.does = "pan";
    else this.does = event.button === 0 ? this.tool : "";
    if (event.button === 1) event.preventDefault();
    if (this.does === "ruler") {
      const start = this.onFilm(point);
      this.rulers.push([start, start]);
    }
  }

  drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last || !this.does) return;
    const point = this.at(event);
    const [dx, dy] = [point.x - last.x, point.y - last.y];
    if (this.does === "window") {
      const step = 1 / Math.min(this.canvas.width, this.canvas.height);
      this.spread = Math.min(4, Math.max(0.004, this.spread * Math.exp(2 * dx * step)));
      this.level = Math.min(1.5, Math.max(-0.5, this.level + dy * step * Math.min(1, this.spread)));
    } else if (this.does === "pan") {
      this.shift(dx, dy);
    } else if (this.does === "ruler") {
      this.rulers.at(-1)[1] = this.onFilm(point);
    } else if (this.does === "pinch") {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const length = (a) => Math.hypot(a.x - other.x, a.y - other.y);
        this.shift(dx / 2, dy / 2);
        this.near((this.zoom * length(point)) / Math.max(1, length(last)), { x: (point.x + other.x) / 2, y: (point.y + other.y) / 2 });
      }
    }
    this.pointers.set(event.pointerId, point);
    this.moving = true;
    this.draw();
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    if (this.pointers.size) return;
    const last = this.rulers.at(-1);
    if (this.does === "ruler" && last && this.length(last).pixels < 2) this.rulers.pop();
    Object.assign(this, { does: "", moving: false });
    this.draw();
  }

  // The page scrolls until the film is clicked; then the wheel is the film's.
  wheel(event) {
    if (!event.ctrlKey && !this.isFull() && document.activeElement !== this.canvas) return;
    event.preventDefault();
    this.moving = true;
    clearTimeout(this.settles);
    this.settles = setTimeout(() => ((this.moving = false), this.draw()), 150);
    this.near(this.zoom * Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), this.at(event));
  }

  // -------------------------------------------------------------------------- the findings

  // The rows above the operating point get a number and a colour, those of their outlines.
  choose() {
    const points = document.querySelector("#answer .points input:checked");
    const choice = points ? Number(points.value) : 0;
    const rows = [...this.reading.querySelectorAll(".findings tbody tr")];
    const place = (row) => Number(row.dataset.places.split(" ")[choice]);
    let above = 0;
    for (const row of rows.sort((a, b) => place(a) - place(b))) {
      const input = row.querySelector("input");
      const map = this.maps[Number(input.className.match(/choose-(\d+)/)[1]) - 1];
      row.querySelector(".mark")?.remove();
      const positive = row.querySelector(`th .at-${choice}.positive`);
      if (!map) continue;
      Object.assign(map, { number: 0, colour: "#ffffff", chosen: input.checked, choice });
      if (!positive) continue;
      map.number = ++above;
      map.colour = COLOURS[(above - 1) % COLOURS.length];
      const mark = element("i", "mark");
      mark.textContent = above;
      mark.style.background = map.colour;
      input.after(mark);
    }
    this.draw();
  }

  // ------------------------------------------------------------------------------ drawing

  draw() {
    if (this.asked || !this.canvas) return;
    this.asked = requestAnimationFrame(() => ((this.asked = 0), this.render()));
  }

  render() {
    const { canvas } = this;
    if (!canvas.width || !this.ratio) return;
    const context = (this.context ??= canvas.getContext("2d", { alpha: false }));
    const matrix = this.matrix();
    const layer = this.moving ? this.small : this.full;
    paint(layer, this.level, this.spread, this.inverted);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(matrix);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = this.moving ? "low" : "high";
    context.drawImage(layer.canvas, 0, 0, this.width, this.height);
    for (const map of this.maps) this.renderMap(context, matrix, map);
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (this.heat === "all") for (const map of this.maps) if (map.number) this.renderNumber(context, matrix, map);
    for (const ruler of this.rulers) this.renderRuler(context, matrix, ruler);
    this.tell();
  }

  renderMap(context, matrix, map) {
    const all = this.heat === "all";
    if (this.heat === "off" || !(all ? map.number : map.chosen)) return;
    context.setTransform(matrix);
    if (this.heat === "wash") {
      context.globalAlpha = this.opacity;
      context.drawImage(map.part.querySelector(`.at-${map.choice}`), 0, 0, this.width, this.height);
      context.globalAlpha = 1;
      return;
    }
    const path = new Path2D();
    path.addPath(map.path, matrix);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.setLineDash(map.number ? [] : [6 * this.ratio, 4 * this.ratio]); // below: dashed
    for (const [colour, width] of [["rgb(0 0 0 / 55%)", 4], [map.colour, 2]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width * this.ratio });
      context.stroke(path);
    }
    context.setLineDash([]);
  }

  renderNumber(context, matrix, map) {
    const { x, y } = matrix.transformPoint(map.peak);
    const beside = this.maps.filter((m) => m.number && m.number < map.number)
      .filter((m) => Math.hypot(m.peak.x - map.peak.x, m.peak.y - map.peak.y) < this.width / 16).length;
    const size = 9 * this.ratio;
    context.beginPath();
    context.arc(x + beside * 2.2 * size, y, size, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: map.colour, strokeStyle: "rgb(0 0 0 / 60%)", lineWidth: this.ratio });
    context.fill();
    context.stroke();
    this.write(context, map.number, x + beside * 2.2 * size, y, "#000", false);
  }

  renderRuler(context, matrix, ruler) {
    const [a, b] = ruler.map((end) => matrix.transformPoint(end));
    for (const [colour, width] of [["rgb(0 0 0 / 60%)", 4], ["#ffe14d", 1.5]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width * this.ratio });
      context.beginPath();
      context.moveTo(a.x, a.y);
      context.lineTo(b.x, b.y);
      context.stroke();
    }
    for (const end of [a, b]) {
      context.beginPath();
      context.arc(end.x, end.y, 3 * this.ratio, 0, 2 * Math.PI);
      context.fillStyle = "#ffe14d";
      context.fill();
    }
    this.write(context, this.length(ruler).text, (a.x + b.x) / 2, (a.y + b.y) / 2 - 12 * this.ratio, "#ffe14d", true);
  }

  // Millimetres where the file states the distance between pixels, else pixels of the film.
  length([a, b]) {
    const [dx, dy] = [b.x - a.x, b.y - a.y];
    const pixels = this.reduction * Math.hypot(dx, dy);
    if (!this.spacing) return { pixels, text: `${pixels.toFixed(0)} px` };
    const mm = Math.hypot(dx * this.spacing[1], dy * this.spacing[0]);
    return { pixels, text: `${mm.toFixed(1)} mm` };
  }

  write(context, text, x, y, colour, haloed, textAlign = "center") {
    Object.assign(context, { font: `600 ${12 * this.ratio}px system-ui, sans-serif`, textAlign, textBaseline: "middle" });
    if (haloed) {
      Object.assign(context, { strokeStyle: "rgb(0 0 0 / 80%)", lineWidth: 3 * this.ratio, lineJoin: "round" });
      context.strokeText(text, x, y);
    }
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }

  tell() {
    // On the canvas: a change of the page's text would cost more than the film.
    const percent = (100 * this.scale()) / this.reduction;
    const state = `W ${(100 * this.spread).toFixed(0)}  L ${(100 * this.level).toFixed(0)}  ${percent.toFixed(0)} %`;
    this.write(this.context, state, 8 * this.ratio, this.canvas.height - 12 * this.ratio, "#d4d4d4", true, "left");
    if (this.moving) return;
    const pressed = {
      [this.tool]: true, [this.heat]: true, invert: this.inverted, mirror: this.mirrored, turn: this.turned > 0, full: this.isFull(),
    };
    for (const button of this.figure.querySelectorAll("[data-action]")) {
      const on = String(!!pressed[button.dataset.action]);
      if (button.getAttribute("aria-pressed") !== on) button.setAttribute("aria-pressed", on);
    }
    if (this.slider) this.slider.hidden = this.heat !== "wash";
    this.canvas.dataset.tool = this.tool;
    this.canvas.style.touchAction = this.isFull() || this.zoom > 1.01 || this.tool === "ruler" ? "none" : "pan-y";
  }
}

const LABELS = { stored: "As stored", range: "Full", lung: "Lung", bone: "Bone", off: "No map", outline: "Outline", wash: "Wash", all: "All above" };

// Action -> its keys, and what it does.
const ACTIONS = {
  window: ["w", "Drag: window and level"],
  pan: ["p", "Drag: move the film"],
  ruler: ["r", "Drag: measure a distance"],
  clear: ["x", "Remove the measured distances"],
  stored: ["s", "Window as stored in the file"],
  range: ["u", "Window over all greys of the film"],
  lung: ["l", "Window for the lungs"],
  bone: ["b", "Window for the bones"],
  invert: ["i", "Invert the greys"],
  turn: ["t", "Turn to the right"],
  back: ["T", "Turn to the left"],
  mirror: ["m", "Mirror"],
  nearer: ["+ =", "Zoom in"],
  farther: ["-", "Zoom out"],
  one: ["1", "One pixel of the film for one of the screen"],
  fit: ["0", "Fit the film to the frame"],
  reset: ["z", "Everything as at first"],
  off: ["h", "No heat map"],
  outline: ["c", "Outline of the chosen finding's evidence"],
  wash: ["v", "Wash of colour over the chosen finding's evidence"],
  all: ["a", "Outlines of all findings above their operating points"],
  fainter: ["[", "Fainter wash"],
  stronger: ["]", "Stronger wash"],
  next: ["j", "Next finding"],
  previous: ["k", "Finding before"],
  full: ["f", "Full screen, with the findings beside the film"],
  keys: ["?", "This list"],
};

const HELP = "The keys work once the film was clicked or focused. Arrows move it; the wheel or two fingers zoom; drag with Shift or the middle button to move; a double click changes between fit and 1:1. Window and level are in percent of the stored range. Distances are those at the detector unless the film was calibrated: what lies before it is smaller.";

// ------------------------------------------------------------------------------ pictures

function element(name, className = "") {
  const made = document.createElement(name);
  made.className = className;
  return made;
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

async function pixels(image) {
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function layerOf(grey, width, height, levels = LEVELS) {
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  const data = context.createImageData(width, height);
  return { grey, width, height, levels, canvas, context, data, painted: "" };
}

// Every so many pixels made one, their mean, until the film is small enough to be drawn at once.
function smaller(layer) {
  const step = Math.ceil(Math.max(layer.width, layer.height) / DRAGGED);
  if (step === 1) return layer;
  const [width, height] = [Math.ceil(layer.width / step), Math.ceil(layer.height / step)];
  const grey = new Uint16Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let [sum, count] = [0, 0];
      for (let v = y * step; v < Math.min(layer.height, (y + 1) * step); v++) {
        for (let u = x * step; u < Math.min(layer.width, (x + 1) * step); u++) {
          sum += layer.grey[v * layer.width + u];
          count++;
        }
      }
      grey[y * width + x] = (sum / count) * (FEWER / LEVELS);
    }
  }
  return layerOf(grey, width, height, FEWER);
}

// Share of the pixels -> the grey in [0, 1] that so many are not above.
function percentiles({ grey, levels }) {
  const counts = new Uint32Array(levels);
  for (const value of grey) counts[value]++;
  return (share) => {
    let [level, left] = [0, Math.max(1, share * grey.length)];
    while (level < levels - 1 && (left -= counts[level]) > 0) level++;
    return level / (levels - 1);
  };
}

const TABLE = new Uint32Array(LEVELS); // grey -> opaque colour of the screen

// The greys of a film at a window; nothing if they are there already.
function paint(layer, level, spread, inverted) {
  const wanted = `${level} ${spread} ${inverted}`;
  if (layer.painted === wanted) return;
  layer.painted = wanted;
  const [low, slope] = [level - spread / 2, 255 / spread];
  for (let i = 0; i < layer.levels; i++) {
    const grey = Math.min(255, Math.max(0, Math.round((i / (layer.levels - 1) - low) * slope)));
    const value = inverted ? 255 - grey : grey;
    TABLE[i] = 0xff000000 | (value << 16) | (value << 8) | value;
  }
  const out = new Uint32Array(layer.data.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = TABLE[layer.grey[i]];
  layer.context.putImageData(layer.data, 0, 0);
}

// ------------------------------------------------------------------------- where films come

// A film's viewer is made when it first comes into sight: of twenty, most never do.
const inSight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    const figure = target.closest("figure");
    figure.viewer = new (figure.closest(".pair") ? LinkedViewer : Viewer)(figure);
    figure.viewer.load().catch(() => figure.classList.add("unviewed")); // the picture stays
  }
});

const known = new WeakSet();
function findFilms() {
  for (const figure of document.querySelectorAll("#answer .film figure")) {
    if (known.has(figure)) continue;
    known.add(figure);
    inSight.observe(figure.querySelector(".frame"));
  }
}

new MutationObserver(findFilms).observe(document, { childList: true, subtree: true });

document.addEventListener("change", (event) => {
  if (!(event.target instanceof Element) || !event.target.matches("#answer .points input")) return;
  for (const figure of document.querySelectorAll("#answer .viewing")) figure.viewer.choose();
});
