"use strict";
// A click on a column's name sorts the rows by it: as numbers where its cells begin with one, and
// empty cells last.
function key(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = /^[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?/i.exec(text);
  return { text, number: number ? Number(number[0].replaceAll(",", "")) : null };
}
function compare(a, b) {
  if (a.number !== null && b.number !== null) return a.number - b.number;
  return a.text.localeCompare(b.text);
}
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    for (const other of head.parentElement.cells) other.ariaSort = "none";
    head.ariaSort = sign === 1 ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const keyed = Array.from(body.rows, (row) => [key(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => (a.text === "") - (b.text === "") || sign * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
  });
}
