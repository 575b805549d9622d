// The report of several films: each is sent once more, one after the other.

const reporting = { stop: null, said: "" };

// A film's outlines without the viewer's canvas.
class Still extends Viewer {
  choice() {
    return SHOWN.point;
  }

  async load() {
    await this.picture.decode();
    [this.width, this.height] = [this.picture.naturalWidth, this.picture.naturalHeight];
    await this.readMaps();
    this.choose();
  }

  draw() {}
}

async function reportOfMany(shown, stem) {
  if (reporting.stop) return void reporting.stop.abort();
  reporting.stop = new AbortController();
  const { signal } = reporting.stop;
  try {
    const films = shown.flatMap((study) => study.films);
    const sheets = [];
    for (const [i, film] of films.entries()) {
      tell(`Report: film ${i + 1} of ${films.length} …`);
      const study = shown.find((each) => each.films.includes(film));
      sheets.push(await sheetOf(film, signal, several(study)));
    }
    const first = sheets.find(Boolean);
    if (!first) return;
    const pages = sheets.map((sheet, i) => sheet && pageOf(sheet, `Film ${i + 1} of ${films.length}`)).filter(Boolean);
    first.title = "Report on chest X-rays";
    const all = first.createElement("main");
    all.append(...(films.length > 1 ? [overview(first, pages[0], shown, films)] : []), ...pages);
    first.body.replaceChildren(all);
    saveReport(first, `${stem} report.html`);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  } finally {
    reporting.stop = null;
    tell("");
  }
}

// As `percent` of cft/page/text.py.
const exact = (share) => `${(100 * share).toFixed(1)}\u202f%`;

function tell(said) {
  reporting.said = said;
  for (const button of document.querySelectorAll('[data-many^="report"]')) button.textContent = said ? "Stop the report" : "Report";
  const place = document.querySelector("#answer .reporting");
  if (place) put(place, said);
  changed();
}

// The report of a film as a document; nothing if the film could not be read.
async function sheetOf(film, signal, ofStudy) {
  const waits = (sentence, seconds) => tell(`${sentence} The next try is in ${Math.round(seconds)} s.`);
  if (film.state === "failed") return null;
  if (!film.row) {
    film.row = await ask("row", [[{ file: film.file, name: "film" }], SALT], signal, waits);
    const { error } = film.row.points[0].document.films[0];
    if (error) return fail(film, error), null;
    film.state = "read";
  }
  const holder = element("div");
  holder.innerHTML = await ask("film", [[{ file: film.file, name: "film" }]], signal, waits); // see batch.js
  const link = holder.querySelectorAll("a.report")[SHOWN.point];
  if (!link) return null;
  const still = new Still(holder.querySelector(".film figure"));
  await still.load();
  const report = documentOf(link);
  const withheld = ofStudy ? leftOut(film) : "";
  complete(report, pictured(still.figure, withheld ? null : still), "image/jpeg");
  if (withheld && report.querySelector("table")) withhold(report, withheld);
  return report;
}

// A film that does not count in its study, such as a lateral one, has no numbers.
function withhold(report, why) {
  const warning = Object.assign(report.createElement("p"), { className: "warning", textContent: why });
  report.querySelector("main table").replaceWith(warning);
  report.querySelector(".sentence").textContent = `Not scored: ${why.replace(/\.$/, "")}`;
}

function pageOf(report, title) {
  const page = report.querySelector(".sheet");
  page.querySelector("h1").append(` · ${title}`);
  page.querySelector("#film").removeAttribute("id");
  const part = report.createElement("div"); // the file has one main part, with all pages in it
  part.append(...page.querySelector("main").childNodes);
  page.querySelector("main").replaceWith(part);
  return page;
}

// ------------------------------------------------------------------------------ the first page

// Title, warning and field to type into are those of a film's page; what is below is of all films.
function overview(report, page, shown, films) {
  const sheet = report.createElement("div");
  sheet.className = "sheet";
  const head = page.querySelector("header").cloneNode(true);
  head.querySelector("h1").textContent = "Chest X-rays: what a model says";
  const body = report.createElement("div");
  body.append(page.querySelector(".typed").cloneNode(true));
  const numbers = new Map(films.map((film, i) => [film, `Film ${i + 1}`]));
  for (const [i, study] of shown.entries()) body.append(summaryOf(report, study, numbers, i + 1));
  sheet.append(head, body, page.querySelector("footer").cloneNode(true));
  return sheet;
}

function summaryOf(report, study, numbers, number) {
  const part = (name, text = "", kind = "") => Object.assign(report.createElement(name), { textContent: text, className: kind });
  const section = part("section", "", "summary");
  if (!several(study)) {
    const [film] = study.films;
    const entry = entryOf(film);
    const said = entry && !entry.error ? entry.sentence : `Could not be read: ${film.reason}`;
    section.append(part("h2", numbers.get(film)), part("p", said));
    return section;
  }
  const films = study.films.map((film) => ({ ...film, path: numbers.get(film), named: film.named ?? named(film.path) ?? {} }));
  const result = resultOf({ name: "", films });
  section.append(part("h2", `Study ${number}: ${films.length} films`), part("p", result.sentence, "sentence"));
  const reasons = result.not_scored.map(({ file, reason }) => `${file} is not scored: ${reason}`);
  section.append(part("p", [result.scored.length ? `Of each finding the maximum over ${result.scored.join(", ")}.` : "", ...reasons].join(" "), "small"));
  if (!result.findings.length) return section;
  const table = part("table");
  const row = (name, words) => {
    const made = part("tr");
    made.append(...words.map((word, i) => {
      const cell = part(i && name === "td" ? "td" : "th", word, i === 0 || i > 2 ? "left" : "");
      if (cell.matches("th")) cell.scope = name === "td" ? "row" : "col";
      return cell;
    }));
    return made;
  };
  const head = part("thead");
  head.append(row("th", ["Finding", "Probability", "Operating point", "Result", "Most on"]));
  const body = part("tbody");
  for (const finding of result.findings) {
    const { label, probability, operating_point: point, positive, ruled, evidence, file } = finding;
    const said = evidence ? "no evidence" : positive === null ? "–" : `${positive ? "▲ above" : "below"}${ruled === "unsure" ? ", unsure" : ""}`;
    const line = row("td", [label.replaceAll("_", " "), exact(probability), point === null ? "not set" : exact(point), said, file]);
    if (evidence) line.className = "unproven";
    else if (positive) line.className = "above";
    body.append(line);
  }
  table.append(head, body);
  section.append(table);
  return section;
}
