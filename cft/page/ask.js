// How the page asks its server: films are sent, named in a call, read and deleted there. Where the
// server has no room, this says so, waits and sends them again.

const API = `${window.location.pathname.replace(/\/$/, "")}/gradio_api`;
const UNHEARD = "The answer was lost on its way.";

class Refusal extends Error {} // will not be answered; the message is the sentence for the visitor
class Later extends Error {
  constructor(sentence, seconds) {
    super(sentence);
    this.seconds = seconds;
  }
}

/**
 * The answer to a call of the page's own.
 *
 * @param {string} call - "film", "row", "together" or "example".
 * @param {({file: File, name: string}[]|string)[]} inputs - lists of films that are sent, under which names;
 *   texts as they are.
 * @param {AbortSignal} signal - ends it, with an AbortError.
 * @param {(sentence: string, seconds: number) => void} waits - told each time that it has to wait.
 * @throws {Refusal} with a sentence, if the answer is no.
 */
async function ask(call, inputs, signal, waits) {
  for (let lost = 0; ; ) {
    try {
      return await askOnce(call, inputs, signal);
    } catch (error) {
      if (!(error instanceof Later) || (error.message === UNHEARD && ++lost > 5)) throw error;
      waits(error.message, error.seconds);
      await pause(error.seconds, signal);
    }
  }
}

async function askOnce(call, inputs, signal) {
  const data = [];
  for (const input of inputs) data.push(typeof input === "string" ? input : await sent(input, signal));
  const body = JSON.stringify({ data });
  const headers = { "Content-Type": "application/json" };
  const joined = await fetched(`${API}/call/${call}`, { method: "POST", headers, body, signal });
  const { event_id: event } = await joined.json();
  const events = await (await fetched(`${API}/call/${call}/${event}`, { signal })).text().catch(unheard);
  const [, kind, text] = events.match(/^event: (complete|error)\ndata: (.*)$/m) ?? [];
  if (kind === "complete") return JSON.parse(text)[0];
  if (kind === "error") throw new Refusal(JSON.parse(text)?.error ?? "It could not be answered.");
  return unheard();
}

async function sent(films, signal) {
  if (!films.length) return [];
  const body = new FormData();
  for (const { file, name } of films) {
    // What was moved since it was chosen would look like a server that does not answer.
    await file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Refusal("the file is no longer where it was when it was chosen");
    });
    body.append("files", file, name);
  }
  const paths = await (await fetched(`${API}/upload`, { method: "POST", body, signal })).json();
  return paths.map((path, i) => ({ path, orig_name: films[i].name, meta: { _type: "gradio.FileData" } }));
}

async function fetched(address, options) {
  const answer = await fetch(address, options).catch(unheard);
  if (answer.ok) return answer;
  const text = await answer.text();
  const sentence = text.startsWith("{") ? JSON.parse(text).detail : text;
  const seconds = Number(answer.headers.get("Retry-After"));
  throw seconds ? new Later(sentence, seconds) : new Refusal(sentence);
}

function unheard(error) {
  if (error?.name === "AbortError") throw error;
  throw new Later(UNHEARD, 3);
}

function pause(seconds, signal) {
  return new Promise((done, fail) => {
    const stop = () => (clearTimeout(timer), fail(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), done()), 1000 * seconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
