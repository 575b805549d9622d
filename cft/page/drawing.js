// What the viewer draws: the film at its window, outlines or wash, numbers, rulers, and its state.

// Okabe and Ito's colours, which people without colour vision tell apart, the dark ones left out.
const COLOURS = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#00b98a", "#ff7043", "#ffffff"];

class Drawing extends View {
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
      [this.tool]: true, [this.heat]: true, [this.shown]: true, invert: this.inverted, mirror: this.mirrored, turn: this.turned > 0, full: this.isFull(),
    };
    for (const button of this.figure.querySelectorAll("[data-action]")) {
      const on = String(!!pressed[button.dataset.action]);
      if (button.getAttribute("aria-pressed") !== on) button.setAttribute("aria-pressed", on);
    }
    for (const part of [this.slider, this.legend]) if (part) part.hidden = this.heat !== "wash";
    this.canvas.dataset.tool = this.tool;
    this.canvas.style.touchAction = this.isFull() || this.zoom > 1.01 || this.tool === "ruler" ? "none" : "pan-y";
  }
}
