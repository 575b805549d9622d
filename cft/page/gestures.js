// Pointer, touch and wheel on the viewer's canvas.

class Gestures extends Drawing {
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
      this.shown = ""; // no preset any more
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
}
