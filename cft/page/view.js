// Where a film lies on the viewer's canvas: zoom, position, turned and mirrored.

class View {
  centre() {
    Object.assign(this, { zoom: 1, x: this.width / 2, y: this.height / 2 });
  }

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
}
