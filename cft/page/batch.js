// The films of a visit. The browser keeps their files and has them read, a few at a time; the server
// keeps nothing, so that a film that is opened is sent once more. What they come to stands in the
// matrix (matrix.js); one film alone is opened at once.

const AT_ONCE = 3; // films under way
const IGNORED = /(^|\/)(\.|Thumbs\.db$|desktop\.ini$)/i; // what systems leave in folders

/**
 * A film of the visit: `file` and its `path` in a dropped folder; `state` is "waits", "asked",
 * "read", "failed" (with a `reason`) or "stopped"; `row` is the answer of cft/page/batch.py.
 */
const batch = { films: [], asked: 0, began: 0, done: 0, busy: "", stop: new AbortController(), left: 0 };

function setUp() {
  const zone = document.querySelector("#drop");
  batch.most = Number(zone.dataset.most);
  batch.bytes = 2 ** 20 * Number(zone.dataset.megabytes);
}

// ----------------------------------------------------------------------- where films come from

function addFilms(found) {
  setUp();
  const known = new Map(batch.films.map((film) => [identity(film), film]));
  const wanted = found.filter(({ path }) => !IGNORED.test(path));
  const fresh = wanted.filter((film) => !known.has(identity(film)));
  const added = fresh.slice(0, batch.most - batch.films.length).map(({ file, path }) => {
    const film = { file, path, state: "waits", place: batch.films.length };
    if (file.size > batch.bytes) fail(film, `the file is larger than ${batch.bytes / 2 ** 20} MB`);
    batch.films.push(film);
    return film;
  });
  batch.left = fresh.length - added.length;
  if (!wanted.length) return;
  const [one] = [...added, ...(fresh.length ? [] : [known.get(identity(wanted[0]))])];
  if (wanted.length === 1 && one) openFilm(one);
  else {
    showMatrix();
    intoSight(document.querySelector("#many"));
  }
  run();
}

// What lies below what is seen, as on a phone, or above it.
function intoSight(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > window.innerHeight / 2) element.scrollIntoView();
}

function identity({ file, path }) {
  return `${path}\n${file.size}\n${file.lastModified}`;
}

// Files of a folder come in the order of their names, in which 10 follows 9.
const byPath = new Intl.Collator("en", { numeric: true });
const inOrder = (found) => found.sort((a, b) => byPath.compare(a.path, b.path));
const chosen = (files) => [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

async function inside(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time, and nothing in the end
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return inOrder(found);
    for (const each of some) found.push(...(await inside(each)));
  }
}

async function dropped(transfer) {
  // Asked for before anything is awaited: a drop is forgotten after its event.
  const files = chosen(transfer.files);
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  return (await Promise.all(entries.map(inside))).flat();
}

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
const marked = (on) => document.documentElement.classList.toggle("dragging", on);

for (const type of ["dragenter", "dragover"]) {
  document.addEventListener(type, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    marked(true);
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget === null && marked(false));
document.addEventListener("drop", async (event) => {
  marked(false);
  if (!carriesFiles(event) || event.defaultPrevented) return; // prevented: a zone of its own has them
  event.preventDefault();
  addFilms(await dropped(event.dataTransfer));
});

document.addEventListener("change", (event) => {
  const field = event.target;
  if (!(field instanceof Element) || !field.matches("#drop input")) return;
  const found = chosen(field.files);
  field.value = ""; // so that the same files can be chosen again
  addFilms(field.webkitdirectory ? inOrder(found) : found);
});

// ------------------------------------------------------------------------------- having them read

// A film alone is opened, which says all that its row would.
function run() {
  if (batch.films.length > 1 || !document.querySelector("#many").hidden) {
    for (const film of batch.films) {
      if (batch.asked >= AT_ONCE) break;
      if (film.state === "waits") readRow(film);
    }
  }
  changed();
}

async function readRow(film) {
  const { signal } = batch.stop;
  if (!batch.asked++) Object.assign(batch, { began: performance.now(), done: 0 });
  film.state = "asked";
  try {
    film.row = await ask("row", [[{ file: film.file, name: "film" }], SALT], signal, tellBusy);
    const entry = film.row.points[0].document.films[0];
    if (entry.error) fail(film, entry.error);
    else film.state = "read";
  } catch (error) {
    if (error instanceof Refusal) fail(film, error.message.replace(/\.$/, ""));
    else film.state = "stopped"; // by the visitor, or because no server answered
  }
  batch.asked--;
  batch.done++;
  batch.busy = "";
  changed(film);
  run();
}

function fail(film, reason) {
  Object.assign(film, { state: "failed", reason });
}

function tellBusy(sentence, seconds) {
  const until = seconds > 90 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds)} s`;
  batch.busy = `${sentence.replace(/ None (was|of yours).*$/, "")} The next try is in ${until}.`;
  changed();
}

function stopReading() {
  batch.stop.abort();
  batch.stop = new AbortController();
  for (const film of batch.films) if (film.state === "waits") film.state = "stopped";
  changed();
}

function goOn() {
  for (const film of batch.films) if (film.state === "stopped") film.state = "waits";
  run();
}

function clearFilms() {
  stopReading();
  closeFilm();
  makeRoom(false);
  Object.assign(batch, { films: [], left: 0, busy: "" });
  Object.assign(studying, { held: null, rows: new Map() });
  document.querySelector("#many").hidden = true;
  document.querySelector("#many tbody").replaceChildren();
  document.querySelector("#answer").innerHTML = EMPTY;
}

// ----------------------------------------------------------------------------- one film is open

const EMPTY = '<p class="empty">Findings and heat maps appear here.</p>';
const opened = { film: null, films: [], stop: new AbortController(), from: 0 };

function openFilm(film) {
  return openAnswer(film, film.path, (signal, waits) => ask("film", [[{ file: film.file, name: film.file.name }]], signal, waits));
}

// Its films are sent in one call, which answers for all of them together.
function openStudy({ name, films }) {
  opened.films = films;
  const sent = films.map(({ file, path }) => ({ file, name: path.replaceAll("/", " ") })); // a name loses its folders on the way
  return openAnswer(films[0], name, (signal, waits) => ask("together", [sent, []], signal, waits));
}

async function openAnswer(film, name, get) {
  const several = batch.films.length > 1;
  const many = document.querySelector("#many");
  if (several && !many.hidden) {
    opened.from = window.scrollY;
    history.pushState({ film: true }, ""); // so that the browser's own way back leads to the matrix
  }
  opened.film = film;
  many.hidden = true;
  placeBar();
  await showAnswer(name, get);
}

async function showAnswer(name, get) {
  opened.stop.abort();
  opened.stop = new AbortController();
  const { signal } = opened.stop;
  makeRoom(true);
  const answer = document.querySelector("#answer");
  const saying = element("p", "empty");
  saying.setAttribute("role", "log");
  saying.textContent = `Reading ${name} …`;
  answer.replaceChildren(saying);
  const bar = document.querySelector("#place");
  intoSight(bar.hidden ? answer : bar);
  try {
    const html = await get(signal, (sentence, seconds) => (saying.textContent = `${sentence} The next try is in ${Math.round(seconds)} s.`));
    if (signal.aborted) return;
    answer.innerHTML = html; // of cft/page/render.py, which escapes whatever came from outside
    samePoint(answer);
    intoSight(bar.hidden ? answer : bar);
  } catch (error) {
    if (signal.aborted) return;
    const failed = element("div", "entry failed");
    failed.setAttribute("role", "status");
    failed.append(Object.assign(element("p"), { textContent: error.message }));
    answer.replaceChildren(failed);
  }
}

// What is none of the films of the visit.
function showAlone(name, get) {
  opened.film = null;
  document.querySelector("#many").hidden = true;
  placeBar();
  showAnswer(name, get);
}

// The films have the room, see drop.css.
const makeRoom = (on) => document.documentElement.classList.toggle("films", on);

const openExample = () => showAlone("the example film", (signal, waits) => ask("example", [], signal, waits));

function closeFilm() {
  opened.stop.abort();
  opened.film = null;
  document.querySelector("#answer").replaceChildren();
  document.querySelector("#place").hidden = true;
}

// What stands above the film: where it is among the others.
function placeBar() {
  const bar = document.querySelector("#place");
  bar.hidden = batch.films.length < (opened.film ? 2 : 1);
  if (bar.hidden) return;
  const shown = inView();
  const place = shown.indexOf(opened.film);
  bar.querySelector(".where").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
  bar.querySelector('[data-many="previous"]').disabled = place <= 0;
  bar.querySelector('[data-many="next"]').disabled = place < 0 || place === shown.length - 1;
}

function step(by) {
  const shown = inView();
  const film = shown[shown.indexOf(opened.film) + by];
  if (opened.film && film) openFilm(film);
}

// Back to the matrix, as it was left.
function showMatrix() {
  const last = opened.film;
  makeRoom(true);
  closeFilm();
  document.querySelector("#many").hidden = false;
  changed();
  if (!last) return;
  drawMatrix();
  window.scrollTo(0, opened.from);
  last.line?.querySelector("button").focus({ preventScroll: true });
}

function goBack() {
  if (history.state?.film) history.back();
  else showMatrix();
}

window.addEventListener("popstate", () => batch.films.length > 1 && showMatrix());

document.addEventListener("keydown", (event) => {
  if (!opened.film || batch.films.length < 2 || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.defaultPrevented || event.target.matches('input:not([type="radio"]), textarea, select')) return;
  if (event.key === ",") step(-1);
  else if (event.key === ".") step(1);
  else if (event.key === "Escape" && !document.querySelector(":popover-open")) goBack();
});
