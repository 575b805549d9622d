// A prior and a current film: what is done to one is done to the other.

// What each does by its own greys.
const ALIKE = ["stored", "range", "lung", "bone", "reset", "clear"];

class LinkedViewer extends Viewer {
  get other() {
    const figures = [...this.figure.parentElement.querySelectorAll("figure")];
    const viewer = figures.find((figure) => figure !== this.figure)?.viewer;
    return viewer?.canvas ? viewer : null;
  }

  furnish() {
    super.furnish();
    const which = this.figure.querySelector(".which");
    this.canvas.setAttribute("aria-label", `${which.textContent} film. Press the question mark for its keys.`);
    this.frame.append(which); // over the canvas
  }

  // Both windows are moved by as much from where a preset has put each.
  range(low, high) {
    super.range(low, high);
    this.preset = [this.level, this.spread];
  }

  act(name) {
    if (ALIKE.includes(name) && this.other) super.act.call(this.other, name);
    super.act(name);
  }

  draw() {
    super.draw();
    if (this.canvas) this.other?.follow(this);
  }

  follow(leader) {
    const { zoom, inverted, turned, mirrored, tool, heat, hidden, opacity, moving, shown } = leader;
    Object.assign(this, { zoom, inverted, turned, mirrored, tool, heat, hidden, opacity, moving, shown });
    this.x = (leader.x / leader.width) * this.width;
    this.y = (leader.y / leader.height) * this.height;
    this.level = this.preset[0] + leader.level - leader.preset[0];
    this.spread = (this.preset[1] * leader.spread) / leader.preset[1];
    if (this.slider) this.slider.value = opacity;
    super.draw();
  }

  // The rows are those of the changes; a film's outlines are solid where it is above the point.
  choose() {
    const choice = String(this.choice());
    for (const [i, map] of this.maps.entries()) {
      const above = map.part.dataset.above.split(" ").includes(choice);
      const chosen = this.reading.querySelector(`.choose-${i + 1}`).checked;
      Object.assign(map, { number: above ? 1 : 0, colour: COLOURS[above ? 0 : 6], chosen, choice });
    }
    this.draw();
  }

  renderNumber() {} // two films have two orders
}

document.addEventListener("input", (event) => {
  if (!(event.target instanceof Element) || !event.target.matches("#answer .swipe input")) return;
  event.target.closest(".both").style.setProperty("--swipe", `${event.target.value}%`);
});
