// Which films of the matrix are one study, and what they say together. Nothing of it leaves the browser
// but a salt of its own, so that the server can tell equal DICOM studies without knowing which.

const SALT = [...crypto.getRandomValues(new Uint8Array(32))].map((b) => b.toString(16).padStart(2, "0")).join("");
const OF_A_FOLDER = 6; // films in a folder that are taken for one study, at most
const studying = { together: true, given: 0, held: null, rows: new Map() };

// As `named` of cft/study.py, with its patterns.
function named(path) {
  const { names } = document.querySelector("#many").dataset;
  const { patterns, lateral } = (studying.names ??= JSON.parse(names));
  for (const pattern of patterns) {
    const found = path.match(new RegExp(pattern, "i"));
    if (!found) continue;
    const [, patient, study, view] = found;
    return { patient, study, lateral: lateral.includes(view?.toLowerCase()) };
  }
  return null;
}

// By the visitor's own hand, by DICOM study, by name, or by a folder below the one that was chosen.
function studyOf(film, inFolder) {
  if (film.study) return film.study;
  if (film.row?.study) return { key: `dicom ${film.row.study}`, name: "" };
  film.named ??= named(film.path) ?? {};
  const { patient, study } = film.named;
  if (patient !== undefined) return { key: `name ${patient}\n${study}`, name: `${patient} ${study}`.trim() };
  const folder = folderOf(film);
  const few = inFolder.get(folder) <= OF_A_FOLDER;
  return few && folder.includes("/") ? { key: `folder ${folder}`, name: folder } : alone(film);
}

const folderOf = ({ path }) => path.slice(0, Math.max(0, path.lastIndexOf("/")));
const alone = (film) => ({ key: `film ${film.place}`, name: "" });

/** The films in the order of their first films: `{key, name, films}` of each study, or film alone. */
function studies(together = studying.together) {
  const [found, inFolder] = [new Map(), new Map()];
  for (const film of batch.films) inFolder.set(folderOf(film), (inFolder.get(folderOf(film)) ?? 0) + 1);
  for (const film of batch.films) {
    const { key, name } = together ? studyOf(film, inFolder) : alone(film);
    if (!found.has(key)) found.set(key, { key, name, films: [] });
    found.get(key).films.push(film);
  }
  let number = 0;
  for (const study of found.values()) if (study.films.length > 1) study.name ||= `Study ${++number}`;
  return [...found.values()];
}

const several = (study) => study.films.length > 1;

// ------------------------------------------------------------------------ what they say together

// Why a film does not count; nothing if it does, as `_why_not` of cft/model/study.py.
function leftOut(film) {
  if (film.state === "failed") return `It could not be read: ${film.reason}.`;
  if (film.state !== "read") return `${STATES[film.state]}.`;
  const entry = entryOf(film);
  const lateral = !entry.view && (film.named ??= named(film.path) ?? {}).lateral;
  return film.row.left_out || (lateral ? document.querySelector("#many").dataset.lateral : "");
}

/** The study as an entry of cft/results.py's document of studies: of each finding the maximum. */
function resultOf({ name, films }) {
  const scored = films.filter((film) => !leftOut(film));
  const left = films.filter((film) => leftOut(film));
  const entries = scored.map((film) => ({ ...entryOf(film), file: film.path }));
  const findings = (entries[0]?.findings ?? []).map(({ label }) =>
    entries
      .map(({ file, findings }) => ({ ...findings.find((finding) => finding.label === label), file }))
      .reduce((most, each) => (each.probability > most.probability ? each : most)),
  );
  const place = ({ evidence, distance, probability }) => [Number(!!evidence), Number(distance === null), -(distance ?? probability)];
  const before = (a, b) => a.map((x, i) => x - b[i]).find((x) => x) ?? 0;
  findings.sort((a, b) => before(place(a), place(b)));
  return {
    study: name,
    sentence: scored.length ? sentenceOf(findings) : "Not answered: no film of the study can be scored",
    operating_point: entries[0]?.operating_point ?? null,
    scored: scored.map((film) => film.path),
    not_scored: left.map((film) => ({ file: film.path, reason: leftOut(film) })),
    findings,
    films: films.map((film) => ({ ...(entryOf(film) ?? { error: film.reason ?? STATES[film.state] }), file: film.path })),
  };
}

// As `first_sentence` of cft/model/sentence.py.
function sentenceOf(findings) {
  if (findings.every(({ positive }) => positive === null)) return "Nothing is decided: the model has no operating points";
  const plain = ({ label }) => label.replaceAll("_", " ");
  const above = findings.filter(({ positive }) => positive);
  const unsure = findings.filter(({ ruled, positive }) => ruled === "unsure" && !positive);
  const words = above.map((finding) => plain(finding) + (finding.ruled === "unsure" ? " (unsure)" : ""));
  const more = unsure.length > 4 ? ` and ${unsure.length - 4} more` : "";
  const parts = [above.length ? `Above: ${words.join(", ")}` : "Nothing above the operating point"];
  if (unsure.length) parts.push(`Unsure: ${unsure.slice(0, 4).map(plain).join(", ")}${more}`);
  return parts.join(". ");
}

// -------------------------------------------------------------------------- by the visitor's hand

const filmsOf = (line) => line?.study?.films ?? (line?.film ? [line.film] : []);

function putTogether(film, others) {
  if (others.includes(film)) return;
  const all = studies(true);
  const study = all.find(({ films }) => films.includes(others[0]));
  const name = study.key.startsWith("film ") || study.name.match(/^Study \d+$/) ? "" : study.name;
  const shared = study.films.length > 1 ? { key: study.key, name } : { key: `given ${++studying.given}`, name: "" };
  for (const each of [film, ...study.films]) each.study = shared;
  studying.together = true;
  document.querySelector("#many .by-study input").checked = true;
  regrouped();
}

function takeOut(film) {
  film.study = alone(film);
  regrouped();
}

function hold(film) {
  studying.held = film;
  regrouped();
}

function regrouped() {
  for (const film of batch.films) SHOWN.dirty.add(film);
  changed();
}

// The button of a row: the first press takes a film up, the second puts it to another.
function move(button) {
  const films = filmsOf(button.closest("tr"));
  const { held } = studying;
  studying.held = null;
  if (!held) hold(films[0]);
  else if (films.includes(held)) regrouped();
  else putTogether(held, films);
}

const rowOf = (event) => (event.target instanceof Element ? event.target.closest("#many tbody tr") : null);

document.addEventListener("dragstart", (event) => {
  const film = rowOf(event)?.film;
  if (!film) return;
  studying.dragged = film;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", ""); // without data some browsers drag nothing
});
document.addEventListener("dragover", (event) => {
  const row = rowOf(event);
  const fits = studying.dragged && row && !filmsOf(row).includes(studying.dragged);
  for (const marked of document.querySelectorAll("#many tr.onto")) if (!fits || marked !== row) marked.classList.remove("onto");
  if (!fits) return;
  event.preventDefault();
  row.classList.add("onto");
});
document.addEventListener("drop", (event) => {
  const row = rowOf(event);
  if (!studying.dragged || !row) return;
  event.preventDefault();
  putTogether(studying.dragged, filmsOf(row));
});
document.addEventListener("dragend", () => {
  studying.dragged = null;
  document.querySelector("#many tr.onto")?.classList.remove("onto");
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && studying.held) hold(null);
});
document.addEventListener("change", (event) => {
  if (!(event.target instanceof Element) || !event.target.matches("#many .by-study input")) return;
  studying.together = event.target.checked;
  regrouped();
});
