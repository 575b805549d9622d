// The matrix of films by findings: each row as it comes, sorted and filtered as the visitor likes.

const SHOWN = { sort: "", down: true, point: 0, dirty: new Set(), asked: 0 };
const FULL = 3; // logits above the operating point at which a cell has its full colour
const STATES = { waits: "Waits", asked: "Reading …", stopped: "Not read: stopped" };
const VERDICTS = { pass: "pass", warn: "caution", refuse: "refused" };

const entryOf = (film) => film.row?.points[SHOWN.point]?.document.films[0];
const findingsOf = (film) => (film.state === "read" ? entryOf(film).findings : []);
const findingOf = (film, label) => findingsOf(film).find((finding) => finding.label === label);

// ------------------------------------------------------------------------------- which, in order

const KINDS = {
  all: () => true,
  above: (film) => findingsOf(film).some((finding) => finding.positive),
  quiet: (film) => findingsOf(film).length > 0 && !KINDS.above(film),
  warn: (film) => film.state === "read" && entryOf(film).gate.verdict === "warn",
  refuse: (film) => film.state === "read" && entryOf(film).gate.verdict === "refuse",
  failed: (film) => film.state === "failed" || film.state === "stopped",
};

const inView = () => studiesInView().flatMap(({ films }) => films);

// A study is shown with all its films if one of them fits; it is quiet if none of them is above.
function studiesInView() {
  const many = document.querySelector("#many");
  const name = many.querySelector(".by-name").value.trim().toLowerCase();
  const kind = many.querySelector(".by-kind").value;
  const label = kind.startsWith("label:") ? kind.slice(6) : null;
  const fits = label === null ? KINDS[kind] : (film) => findingOf(film, label)?.positive;
  const has = (film) => film.path.toLowerCase().includes(name);
  const quiet = ({ films }) => films.some(KINDS.quiet) && !films.some(KINDS.above);
  return sorted(studies().filter((study) => (kind === "quiet" ? quiet(study) && study.films.some(has)
    : study.films.some((film) => fits(film) && has(film)))));
}

function sorted(shown) {
  const [by, label] = SHOWN.sort.startsWith("label:") ? ["label", SHOWN.sort.slice(6)] : [SHOWN.sort];
  const order = { pass: 0, warn: 1, refuse: 2 };
  const key = {
    label: (study) => (several(study) ? resultOf(study).findings : findingsOf(study.films[0])).find((f) => f.label === label)?.probability,
    gate: ({ films }) => films.map((film) => (film.state === "read" ? order[entryOf(film).gate.verdict] : film.state === "failed" ? 3 : undefined))
      .reduce((worst, each) => (worst === undefined || each > worst ? each : worst)),
  }[by];
  const way = SHOWN.down ? -1 : 1;
  const path = ({ films }) => films[0].path;
  if (by === "name") return shown.sort((a, b) => -way * byPath.compare(path(a), path(b)));
  if (!key) return shown;
  const keys = new Map(shown.map((study) => [study, key(study)]));
  const unknown = (study) => Number(keys.get(study) === undefined); // last, whichever way
  const place = ({ films }) => films[0].place;
  return shown.sort((a, b) => unknown(a) - unknown(b) || way * (keys.get(a) - keys.get(b)) || place(a) - place(b));
}

// The first click on a heading sorts with most evidence, or A, first; the third not at all.
function sortBy(heading) {
  if (SHOWN.sort !== heading) Object.assign(SHOWN, { sort: heading, down: true });
  else if (SHOWN.down) SHOWN.down = false;
  else SHOWN.sort = "";
  changed();
}

// ----------------------------------------------------------------------------------- drawing it

function changed(film) {
  if (film) SHOWN.dirty.add(film);
  SHOWN.asked ||= requestAnimationFrame(drawMatrix);
}

function drawMatrix() {
  cancelAnimationFrame(SHOWN.asked);
  SHOWN.asked = 0;
  const many = document.querySelector("#many");
  if (!many || many.hidden) return;
  for (const film of batch.films) {
    if (film.line && film.drawn === film.state && !SHOWN.dirty.has(film)) continue;
    film.line ??= Object.assign(element("tr"), { draggable: true });
    film.line.film = film;
    film.line.replaceChildren(...cells(film));
    film.drawn = film.state;
  }
  SHOWN.dirty.clear();
  const shown = studiesInView();
  const lines = shown.flatMap((study) => {
    for (const film of study.films) film.line.classList.toggle("member", several(study));
    const films = study.films.map((film) => film.line);
    return several(study) ? [studyLine(study), ...films] : films;
  });
  many.querySelector(".by-study").hidden = !studies(true).some(several);
  const body = many.querySelector("tbody");
  const same = body.rows.length === lines.length && lines.every((line, i) => body.rows[i] === line);
  if (!same) {
    const focused = document.activeElement;
    body.replaceChildren(...lines);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  watchWidth(many.querySelector(".many-table"));
  for (const heading of many.querySelectorAll("th[data-sort]")) {
    const way = SHOWN.down === (heading.dataset.sort !== "name") ? "descending" : "ascending";
    if (heading.dataset.sort === SHOWN.sort) heading.setAttribute("aria-sort", way);
    else heading.removeAttribute("aria-sort");
  }
  drawHead(many, shown.flatMap(({ films }) => films).length);
}

// Where the whole table is seen, its head can stay while the page scrolls.
const ofWidth = new ResizeObserver(([{ target }]) => target.classList.toggle("fits", target.scrollWidth <= target.clientWidth));

function watchWidth(table) {
  if (SHOWN.watched === table) return;
  SHOWN.watched = table;
  ofWidth.observe(table);
}

function drawHead(many, seen) {
  const count = (...states) => batch.films.filter((film) => states.includes(film.state)).length;
  const all = batch.films.length;
  const [left, failed, stopped] = [count("waits", "asked"), count("failed"), count("stopped")];
  const refused = batch.films.filter(KINDS.refuse).length;
  const together = studies().filter(several).length;
  const parts = [`${all} films`];
  if (together) parts.push(together === 1 ? "1 study of several films" : `${together} studies of several films`);
  if (refused) parts.push(`${refused} not answered`);
  if (failed) parts.push(`${failed} could not be read`);
  if (stopped) parts.push(`${stopped} not read yet`);
  if (seen < all) parts.push(`${seen} shown`);
  put(many.querySelector(".count"), left ? "" : parts.join(" · "));
  many.querySelector(".progress").hidden = !left && !stopped;
  const bar = many.querySelector("progress");
  bar.value = (all - left - stopped) / all;
  const button = many.querySelector('[data-many="cancel"], [data-many="go-on"]');
  button.dataset.many = left ? "cancel" : "go-on";
  button.textContent = left ? "Cancel" : "Go on";
  put(many.querySelector(".left"), `${all - left - stopped} of ${all} read${left ? remaining(left) : ""}`);
  const notice = many.querySelector(".notice");
  const held = studying.held ? `${studying.held.path} is taken up: press ⠿ at the film or the study that it belongs to, or Escape. ` : "";
  const tooMany = batch.left ? `${batch.left} more were left out: at most ${batch.most} films at a time. ` : "";
  put(notice, [held + tooMany + batch.busy, reporting.said].filter(Boolean).join(" "));
  notice.hidden = !notice.textContent;
  many.classList.toggle("done", !left);
}

function put(place, text) {
  if (place.textContent !== text) place.textContent = text; // else a screen reader would say it again
}

function remaining(left) {
  if (batch.done < AT_ONCE) return "";
  const seconds = (left * (performance.now() - batch.began)) / 1000 / batch.done;
  return seconds < 90 ? `, about ${Math.max(1, Math.round(seconds))} s left` : `, about ${Math.round(seconds / 60)} minutes left`;
}

function cells(film) {
  const entry = entryOf(film);
  const name = element("td", "of-film");
  const button = element("button");
  button.type = "button";
  button.dataset.many = "open";
  if (film.row?.thumbnail) button.append(Object.assign(element("img"), { src: film.row.thumbnail, alt: "", draggable: false }));
  else button.append(element("i", "no-picture"));
  const words = element("span");
  words.append(Object.assign(element("bdi", "name"), { textContent: film.path, title: film.path }));
  if (film.state === "read") words.append(Object.assign(element("small"), { textContent: entry.sentence, title: entry.sentence }));
  button.append(words);
  name.append(button);
  if (film.state !== "read" || !entry.findings.length) {
    const why = film.state === "read" ? `Not answered. ${entry.gate.reasons.join(" ")}`
      : film.state === "failed" ? `Could not be read: ${film.reason}.` : STATES[film.state];
    const gate = element("td", "of-gate");
    if (film.state === "read") gate.textContent = VERDICTS.refuse;
    return [name, gate, moving(film), reason(`of-${film.state}`, why)];
  }
  const gate = element("td", `of-gate ${entry.gate.verdict}`);
  Object.assign(gate, { textContent: VERDICTS[entry.gate.verdict], title: entry.gate.reasons.join(" ") });
  return [name, gate, moving(film), ...labels().map((label) => cell(findingOf(film, label)))];
}

const labels = () => [...document.querySelectorAll("#many th[data-label]")].map((th) => th.dataset.label);

function reason(kind, text) {
  return Object.assign(element("td", `reason ${kind}`), { textContent: text, colSpan: labels().length });
}

// The buttons that put a film to another, and take it out of its study.
function moving(film) {
  const made = element("td", "of-move");
  const button = (name, sign, title) => {
    const each = Object.assign(element("button"), { type: "button", textContent: sign, title });
    each.setAttribute("aria-label", title);
    each.dataset.many = name;
    made.append(each);
    return each;
  };
  const held = film && studying.held === film;
  button("move", "⠿", "Put together with another film: press here, then there").setAttribute("aria-pressed", String(!!held));
  if (film) button("out", "×", `Take ${film.path} out of its study`);
  return made;
}

// The row of a study, above those of its films; made anew only if it says something else.
function studyLine(study) {
  const { key, films } = study;
  const line = studying.rows.get(key) ?? element("tr", "study");
  studying.rows.set(key, line);
  line.study = study;
  const says = JSON.stringify([study.name, SHOWN.point, films.map((film) => [film.place, film.state])]);
  if (line.says === says) return line;
  line.says = says;
  const result = resultOf(study);
  const name = element("td", "of-film");
  const button = Object.assign(element("button"), { type: "button" });
  button.dataset.many = "study";
  const words = element("span");
  words.append(Object.assign(element("bdi", "title"), { textContent: study.name, title: study.name }));
  const left = films.some((film) => film.state === "waits" || film.state === "asked");
  const said = `${films.length} films, ${result.scored.length} scored${left ? " so far" : ""}. ${result.sentence}`;
  words.append(Object.assign(element("small"), { textContent: said, title: said }));
  button.append(words);
  name.append(button);
  const row = [name, element("td", "of-gate"), moving(null)];
  if (result.findings.length) row.push(...labels().map((label) => cell(result.findings.find((finding) => finding.label === label))));
  else row.push(reason("", result.sentence));
  line.replaceChildren(...row);
  return line;
}

function cell(finding) {
  const made = element("td", "of-finding");
  made.textContent = percent(finding.probability);
  const point = finding.operating_point === null ? "" : `, operating point ${percent(finding.operating_point)} %`;
  made.title = `${finding.label.replaceAll("_", " ")}: ${percent(finding.probability)} %${point}`;
  if (finding.evidence) made.classList.add("without-evidence");
  else if (finding.positive) {
    made.classList.add("above");
    made.style.setProperty("--evidence", Math.min(1, finding.distance / FULL).toFixed(2));
    made.prepend(Object.assign(element("b"), { textContent: "▲" }));
  } else if (finding.ruled === "unsure") made.classList.add("unsure");
  return made;
}

const percent = (share) => (100 * share).toFixed(share < 0.0995 || share > 0.9905 ? 1 : 0);

// ---------------------------------------------------------------------------------------- tables

// As cft/results.py writes a cell: what a spreadsheet takes for a formula is text after an apostrophe.
function csvCell(text) {
  const safe = /^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Films that are done, those that were never sent among them; nothing until one has been answered.
const finished = () => batch.films.filter((film) => film.state === "read" || film.state === "failed");
const anyRow = () => batch.films.find((film) => film.row)?.row;

// With a byte order mark, without which Excel takes UTF-8 for the encoding of its own country.
function csvTable() {
  const { header } = anyRow();
  const columns = header.replace(/"[^"]*"/g, "").split(",").length; // commas inside a cell left out
  const empty = ",".repeat(columns - 1);
  const lines = finished().map((film) => {
    const rest = film.row?.points[SHOWN.point].line ?? `${empty}${csvCell(film.reason)}\n`;
    return csvCell(film.path) + rest;
  });
  return `\ufeff${header}${lines.join("")}`;
}

const finishedOf = (study) => ({ ...study, films: study.films.filter((film) => finished().includes(film)) });

// Where films stand together it is that of /predict_study, else that of /predict.
function jsonDocument() {
  const { films: _, ...facts } = anyRow().points[SHOWN.point].document;
  const found = studies().map(finishedOf).filter(({ films }) => films.length);
  if (studies().some(several)) {
    const entries = found.map((study) => resultOf({ ...study, name: study.name || study.films[0].path }));
    return JSON.stringify({ ...facts, studies: entries }, null, 2);
  }
  const films = finished().map((film) => ({ ...(entryOf(film) ?? { error: film.reason }), file: film.path }));
  return JSON.stringify({ ...anyRow().points[SHOWN.point].document, films }, null, 2);
}

function download(text, kind, suffix) {
  save(text, kind, `${stemOf(finished())} findings.${suffix}`);
}

// The name of a file about films.
function stemOf(films) {
  const stem = films[0].file.name.replace(/\.[^.]*$/, "") || "film";
  const more = films.length > 1 ? ` and ${films.length - 1} more` : "";
  return `${stem}${more}`;
}

function save(text, kind, name) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---------------------------------------------------------------------------------------- wiring

const MANY = {
  open: (button) => openFilm(button.closest("tr").film),
  study: (button) => openStudy(button.closest("tr").study),
  move,
  out: (button) => takeOut(button.closest("tr").film),
  back: goBack,
  previous: () => step(-1),
  next: () => step(1),
  cancel: stopReading,
  "go-on": goOn,
  clear: clearFilms,
  csv: () => anyRow() && download(csvTable(), "text/csv", "csv"),
  report: () => reportOfMany(studiesInView().map(finishedOf).filter(({ films }) => films.length), stemOf(finished())),
  "report-study": () => reportOfMany([{ key: "", name: "", films: opened.films }], stemOf(opened.films)),
  json: () => anyRow() && download(jsonDocument(), "application/json", "json"),
};

document.addEventListener("click", (event) => {
  if (!(event.target instanceof Element)) return;
  const button = event.target.closest("[data-many]");
  if (button) MANY[button.dataset.many](button);
  else if (event.target.closest("#example")) openExample();
  else if (event.target.closest("#many th button")) sortBy(event.target.closest("th").dataset.sort);
});

for (const type of ["input", "change"]) {
  document.addEventListener(type, (event) => event.target.closest?.(".many-tools") && changed());
}

// The operating points are chosen for the matrix and for the film at once.
document.addEventListener("change", (event) => {
  const field = event.target;
  if (!(field instanceof Element) || !field.matches('.points input[type="radio"]')) return;
  SHOWN.point = Number(field.value);
  for (const film of batch.films) SHOWN.dirty.add(film);
  const other = document.querySelector(`#many .points input[value="${field.value}"]`);
  if (other) other.checked = true;
  changed();
});

function samePoint(answer) {
  answer.querySelector(`.points input[value="${SHOWN.point}"]:not(:checked)`)?.click();
}
