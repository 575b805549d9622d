// The report of the film that is open: the page that cft/page/report.py wrote, with the picture of the
// film, its outlines and today's date put in. It is made and saved in the browser.

const REPORT_SIDE = 1024; // longest side in pixels of the film in it

function reportOf(link) {
  const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
  const report = new DOMParser().parseFromString(new TextDecoder().decode(bytes), "text/html");
  const figure = document.querySelector("#answer .film figure");
  const { canvas, outlines } = pictured(figure);
  report.querySelector("#film").src = canvas.toDataURL("image/png");
  if (!outlines) report.querySelector(".outlines").remove();
  const now = new Date();
  const date = now.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });
  Object.assign(report.querySelector("time"), { textContent: date, dateTime: now.toISOString() });
  save(`<!doctype html>\n${report.documentElement.outerHTML}`, "text/html", link.download);
}

// The film as it is stored, and the numbered outlines of what is above its operating point.
function pictured(figure) {
  const film = figure.querySelector(".frame > img");
  const scale = Math.min(1, REPORT_SIDE / Math.max(film.naturalWidth, film.naturalHeight));
  const canvas = element("canvas");
  canvas.width = Math.round(scale * film.naturalWidth);
  canvas.height = Math.round(scale * film.naturalHeight);
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(film, 0, 0, canvas.width, canvas.height);
  const maps = figure.viewer?.context ? figure.viewer.maps.filter((map) => map.number) : [];
  // The viewer with other settings; its own stay.
  const still = Object.assign(Object.create(figure.viewer ?? null), { heat: "all", ratio: Math.max(1, canvas.width / 450) });
  const matrix = new DOMMatrix().scale(scale);
  for (const map of maps) still.renderMap(context, matrix, map);
  context.setTransform(1, 0, 0, 1, 0, 0);
  for (const map of maps) still.renderNumber(context, matrix, map);
  return { canvas, outlines: maps.length > 0 };
}

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("#answer a.report");
  if (!link) return;
  event.preventDefault();
  reportOf(link);
});
