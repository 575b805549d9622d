// What a style sheet cannot do: rows change places with the choice of operating points, and
// predictive values follow the number that a visitor types. Nothing is sent or stored.

// The page is in English whatever the browser speaks, where Gradio says that it is the browser's.
const sayEnglish = () => document.documentElement.lang !== "en" && (document.documentElement.lang = "en");
new MutationObserver(sayEnglish).observe(document.documentElement, { attributeFilter: ["lang"] });
sayEnglish();

// The snippets name the address that the page is served at.
const findSnippets = () => {
  for (const code of document.querySelectorAll(".api code:not([data-here])")) {
    code.dataset.here = "";
    const here = window.location.href.replace(/[?#].*|\/$/g, "");
    code.textContent = code.textContent.replace("http://127.0.0.1:7860", here);
  }
};
new MutationObserver(findSnippets).observe(document, { childList: true, subtree: true });

document.addEventListener("change", (event) => {
  const choice = event.target;
  if (!(choice instanceof Element) || !choice.matches("#answer .points input")) return;
  for (const body of document.querySelectorAll("#answer .findings tbody")) {
    const place = (row) => Number(row.dataset.places.split(" ")[choice.value]);
    body.append(...[...body.rows].sort((a, b) => place(a) - place(b)));
  }
});

document.addEventListener("input", (event) => {
  const field = event.target;
  if (!(field instanceof Element) || !field.matches("#answer .predictive input")) return;
  const label = field.closest("[data-label]").dataset.label;
  for (const part of document.querySelectorAll("#answer .worth > [data-label]")) {
    if (part.dataset.label !== label) continue; // the same patients in every film of the answer
    const other = part.querySelector(".predictive input");
    if (!other) continue;
    if (other !== field) other.value = field.value;
    for (const line of part.querySelectorAll("[data-sensitivity]")) {
      showValues(line, field.value === "" ? NaN : Number(field.value) / 100);
    }
  }
});

// Bayes' theorem, with both rates as measured, and at the low and at the high ends of their intervals.
function showValues(line, prevalence) {
  const sensitivity = line.dataset.sensitivity.split(" ").map(Number);
  const specificity = line.dataset.specificity.split(" ").map(Number);
  const share = (right, wrong) => right / (right + wrong); // NaN where nobody would be
  const values = {
    ppv: sensitivity.map((s, i) => share(s * prevalence, (1 - specificity[i]) * (1 - prevalence))),
    npv: sensitivity.map((s, i) => share(specificity[i] * (1 - prevalence), (1 - s) * prevalence)),
  };
  const known = prevalence >= 0 && prevalence <= 1 && line.dataset.sensitivity !== "";
  for (const output of line.querySelectorAll("output")) {
    const [value, low, high] = values[output.dataset.value];
    const written = known && !Number.isNaN(value);
    output.value = written ? number(value) + interval(low, high) : "\u2013";
  }
}

function interval(low, high) {
  return Number.isNaN(low) || Number.isNaN(high) ? "" : ` (${number(low)} to ${number(high)})`;
}

// As `short_percent` of cft/page/text.py.
function number(share) {
  const fine = (share > 0 && share < 0.0995) || (share > 0.9905 && share < 1);
  return (100 * share).toFixed(fine ? 1 : 0);
}
