// Reports, made and saved in the browser: the page that cft/page/report.py wrote of a film, with the
// picture of the film, its outlines and today's date put in. Of several films it is one file with a page
// for each, and first a page of what all of them say. No name of a file is in it: films are numbered.

const REPORT_SIDE = 1024; // longest side in pixels of a film in it, at most
const LEAST_SIDE = 512; // and at least, so that lines and numbers are fine beside it

function documentOf(link) {
  const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
  return new DOMParser().parseFromString(new TextDecoder().decode(bytes), "text/html");
}

function reportOf(link) {
  const report = documentOf(link);
  const figure = document.querySelector("#answer .film figure");
  complete(report, pictured(figure, figure.viewer?.context ? figure.viewer : null), "image/png");
  saveReport(report, link.download);
}

function complete(report, { canvas, outlines }, kind) {
  report.querySelector("#film").src = canvas.toDataURL(kind, 0.92);
  if (!outlines) report.querySelector(".outlines").remove();
  const now = new Date();
  const date = now.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });
  Object.assign(report.querySelector("time"), { textContent: date, dateTime: now.toISOString() });
}

function saveReport(report, name) {
  save(`<!doctype html>\n${report.documentElement.outerHTML}`, "text/html", name);
}

// The film as it is stored, and the numbered outlines of what is above its operating point.
function pictured(figure, viewer) {
  const film = figure.querySelector(".frame > img");
  const side = Math.max(film.naturalWidth, film.naturalHeight);
  const scale = Math.min(REPORT_SIDE, Math.max(LEAST_SIDE, side)) / side;
  const canvas = element("canvas");
  canvas.width = Math.round(scale * film.naturalWidth);
  canvas.height = Math.round(scale * film.naturalHeight);
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(film, 0, 0, canvas.width, canvas.height);
  const maps = viewer ? viewer.maps.filter((map) => map.number) : [];
  // The viewer with other settings; its own stay.
  const still = Object.assign(Object.create(viewer), { heat: "all", ratio: Math.max(1, canvas.width / 450) });
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
