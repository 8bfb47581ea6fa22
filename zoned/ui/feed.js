// What this node says, as it says it. EventSource cannot show a token, so the stream is read by fetch.

const EVERY_S = 2;
const SILENCE_S = 3 * EVERY_S + 1; // then the connection is taken for dead
const AGAIN_S = [1, 2, 4, 8, 15];

export class Door extends Error {} // the node wants to know who asks

let token = "";
export const hasToken = () => token !== "";
export const setToken = (text) => { token = text; };

const headers = (more) => (token ? { ...more, "X-Auth-Token": token } : { ...more });

async function refusal(answer) {
  let said = {};
  try { said = await answer.json(); } catch { /* no JSON: the status says it */ }
  const detail = said.detail ?? said.message ?? answer.statusText;
  if (answer.status === 401 || answer.status === 403) return new Door(detail);
  return Object.assign(new Error(`${answer.status}: ${detail}`), { status: answer.status });
}

// The JSON of a route; null when there is none (404, 410). Throws Door, or an Error with words;
// its `status` is there when the node said no, and missing when it said nothing.
export async function ask(path, timeoutS = 10) {
  const answer = await fetch(path, { headers: headers({ Accept: "application/json" }), cache: "no-store", signal: AbortSignal.timeout(timeoutS * 1000) });
  if (answer.status === 404 || answer.status === 410) return null;
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

// Calls `onDocument(document)` for each, `onTrouble(error, secondsUntilNextTry)` when it breaks; goes on until stopped.
export class Feed {
  constructor(onDocument, onTrouble) {
    this.onDocument = onDocument;
    this.onTrouble = onTrouble;
    this.running = null;
    this.tries = 0;
  }

  start() {
    if (this.running) return;
    this.running = new AbortController();
    this.#run(this.running.signal);
  }

  stop() {
    this.running?.abort();
    this.running = null;
  }

  async #run(stopped) {
    while (!stopped.aborted) {
      let error = new Error("the node ended the stream");
      try {
        await this.#read(stopped);
      } catch (caught) {
        error = caught;
      }
      if (stopped.aborted) return;
      const pauseS = AGAIN_S[Math.min(this.tries++, AGAIN_S.length - 1)];
      this.onTrouble(error, pauseS);
      if (error instanceof Door) { this.stop(); return; }
      await new Promise((done) => { setTimeout(done, pauseS * 1000); stopped.addEventListener("abort", done, { once: true }); });
    }
  }

  async #read(stopped) {
    const silence = new AbortController();
    let timer = 0;
    const rearm = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(new Error(`nothing was heard for ${SILENCE_S} s`)), SILENCE_S * 1000);
    };
    rearm();
    try {
      const answer = await fetch(`../zone/v1/overview?every=${EVERY_S}`, {
        headers: headers({ Accept: "text/event-stream" }), cache: "no-store", signal: AbortSignal.any([stopped, silence.signal]),
      });
      if (!answer.ok) throw await refusal(answer);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        rearm();
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const data = text.slice(0, end).split("\n").find((line) => line.startsWith("data: "));
          if (data) { this.tries = 0; this.onDocument(JSON.parse(data.slice(6))); }
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
