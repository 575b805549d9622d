// A study, or a prior film beside it: the films of both are chosen here and read in one call.

const together = { current: [], prior: [] };

const zoneOf = (target) => (target instanceof Element ? target.closest("#current-films, #prior-films") : null);

function take(zone, files) {
  together[zone.id.replace("-films", "")] = [...files].map((file) => ({ file, name: file.name }));
  const chosen = zone.querySelector(".chosen");
  chosen.textContent = [...files].map((file) => file.name).join(", ") || "Drop or choose them";
}

// Before the page as a whole takes what is dropped, see batch.js.
document.addEventListener(
  "drop",
  (event) => {
    const zone = zoneOf(event.target);
    if (!zone || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    take(zone, event.dataTransfer.files);
  },
  true,
);

document.addEventListener("change", (event) => {
  const zone = zoneOf(event.target);
  if (zone) take(zone, event.target.files);
});

document.addEventListener("click", (event) => {
  if (!(event.target instanceof Element) || !event.target.closest("#together")) return;
  opened.films = together.current.map(({ file, name }) => ({ file, path: name, state: "waits" }));
  showAlone("the films", (signal, waits) => ask("together", [together.current, together.prior], signal, waits));
});
