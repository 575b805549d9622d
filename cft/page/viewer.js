// The viewer: a canvas in place of the film's picture, with window and level, zoom, a ruler and the
// outlines of what the model's evidence is made of. Without it, the page shows the picture and its
// heat maps; nothing is sent or stored.

class Viewer extends Tools {
  constructor(figure) {
    super();
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
    await this.readMaps();
    this.furnish();
    this.restore();
    this.listen();
    this.choose();
  }

  async readMaps() {
    for (const map of this.maps) {
      const { data, width, height } = await pixels(await loaded(map.part.dataset.shares));
      Object.assign(map, outline(data, width, height, this.width, this.height));
    }
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

  // Which of the operating points.
  choice() {
    return Number(document.querySelector("#answer .points input:checked")?.value ?? 0);
  }

  // The rows above the operating point get a number and a colour, those of their outlines.
  choose() {
    const choice = this.choice();
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
