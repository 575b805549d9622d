"use strict";
// A click on a column's name sorts the rows by it: as numbers where its cells begin with one, what
// is less than a number just before it, and empty cells last.
function key(row, column) {
  const text = row.cells[column].textContent.trim();
  const less = text.startsWith("< ");
  const number = /^[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?/i.exec(less ? text.slice(2) : text);
  return { text, less, number: number ? Number(number[0].replaceAll(",", "")) : null };
}
function compare(a, b) {
  if (a.number !== null && b.number !== null) return a.number - b.number || b.less - a.less;
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
// What is folded away on a screen is printed.
const folded = document.querySelectorAll("details");
let open = [];
window.addEventListener("beforeprint", () => {
  open = Array.from(folded, (one) => one.open);
  for (const one of folded) one.open = true;
});
window.addEventListener("afterprint", () => {
  folded.forEach((one, i) => { one.open = open[i]; });
});
