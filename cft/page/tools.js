// The viewer's tools: every action has a key, and most have a button.

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

const LABELS = { stored: "As stored", range: "Full", lung: "Lung", bone: "Bone", off: "No map", outline: "Outline", wash: "Wash", all: "All above" };

const PRESETS = ["stored", "range", "lung", "bone"];

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

class Tools extends Gestures {
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
    for (const name of PRESETS) presets.append(this.button(name, LABELS[name]));
    this.options = element("div", "heat");
    if (this.maps.length) {
      for (const name of ["off", "outline", "wash", "all"]) this.options.append(this.button(name, LABELS[name]));
      this.slider = element("input", "opacity");
      Object.assign(this.slider, { type: "range", min: 0.1, max: 1, step: 0.1, value: this.opacity });
      this.slider.setAttribute("aria-label", "Opacity of the wash");
      this.slider.addEventListener("input", () => this.fade(Number(this.slider.value) - this.opacity));
      this.options.append(this.slider);
      this.legend = this.figure.querySelector(".legend");
      if (this.legend) this.options.append(this.legend);
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
    if (PRESETS.includes(name)) this.shown = name;
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
    this.shown = "stored";
    this.centre();
    if (this.ratio) this.draw();
  }
  range(low, high) {
    this.level = (low + high) / 2;
    this.spread = Math.max(0.004, high - low);
  }

  isFull() {
    return this.reading.matches(":popover-open");
  }
}
