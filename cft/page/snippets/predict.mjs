import { readFile } from "node:fs/promises";

const page = "http://127.0.0.1:7860/gradio_api";
const form = new FormData();
form.append("files", new Blob([await readFile("film.png")]), "film.png");
const [path] = await (await fetch(`${page}/upload`, { method: "POST", body: form })).json();
const call = await fetch(`${page}/call/predict`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ data: [{ path, meta: { _type: "gradio.FileData" } }] }),
});
const { event_id: event } = await call.json();
const events = await (await fetch(`${page}/call/predict/${event}`)).text();
const [answer] = JSON.parse(events.match(/^data: (.*)$/m)[1]);
console.log(answer.films[0].sentence);
