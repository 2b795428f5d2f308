// How an answer comes into the page: by EventSource, or by fetch. Both read the same events.
//
// A transport takes the question and `on`, and returns a function that stops the answer. It calls
//   on.text(delta)                               for each piece of the answer,
//   on.usage(usage)                              when the tokens were counted,
//   on.done() or on.error({message, code, …})    once, at the end; neither after it was stopped.

export const transports = { eventsource: byEventSource, fetch: byFetch };

/** EventSource can only GET: the conversation is left at ask.php, and a ticket for it goes into the URL. */
function byEventSource(question, on) {
  const abort = new AbortController();
  let source = null;
  let hasEnded = false;
  let hasText = false;
  const end = (tell) => {
    if (hasEnded) return;
    hasEnded = true;
    abort.abort();
    source?.close(); // or the browser would connect, and ask, again
    tell?.();
  };
  const events = {
    ...on,
    text: (delta) => { hasText = true; on.text(delta); },
    done: () => end(on.done),
    error: (error) => end(() => on.error(error)),
  };
  post("ask.php", question, abort.signal)
    .then((response) => response.json())
    .then(({ ticket }) => {
      if (hasEnded) return;
      source = new EventSource(`chat.php?ticket=${encodeURIComponent(ticket)}`);
      source.onmessage = (event) => readData(event.data, events);
      source.addEventListener("done", () => end(on.done));
      source.onerror = () => events.error(hasText ? BROKEN_OFF : REFUSED);
    })
    .catch((error) => events.error(describe(error)));
  return () => end();
}

/** fetch sends the conversation itself, and sees status and headers when something is wrong. */
function byFetch(question, on) {
  const abort = new AbortController();
  let hasEnded = false;
  const end = (tell) => {
    if (hasEnded) return;
    hasEnded = true;
    abort.abort(); // closes the connection: nobody streams to nobody
    tell?.();
  };
  const events = {
    text: (delta) => { if (!hasEnded) on.text(delta); },
    usage: (usage) => { if (!hasEnded) on.usage(usage); },
    done: () => end(on.done),
    error: (error) => end(() => on.error(error)),
  };
  (async () => {
    const response = await post("chat.php", question, abort.signal);
    const text = new TextDecoder();
    const lines = new Lines((data) => readData(data, events));
    const reader = response.body?.getReader();
    for (let piece; reader && !(piece = await reader.read()).done;) {
      lines.push(text.decode(piece.value, { stream: true }));
    }
    events.error(BROKEN_OFF); // of no effect behind [DONE]
  })().catch((error) => events.error(describe(error)));
  return () => end();
}

/** The data of one event: a piece of the answer, the tokens, the end, or an error. */
function readData(data, on) {
  if (data === "[DONE]") return on.done();
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    return on.error({ message: "The server sent something that is no answer.", code: "not_json" });
  }
  if (event?.error) on.error({ ...event.error });
  if (event?.content) on.text(event.content);
  if (event?.usage) on.usage(event.usage);
}

/** Server-sent events out of text in pieces, however it is cut: calls back with the data of each. */
export class Lines {
  #rest = "";
  #data = [];
  #onData;

  constructor(onData) {
    this.#onData = onData;
  }

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") this.#flush();
      else if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      // Comments are heartbeats; ids and names of events are nothing that we need.
    }
  }

  #flush() {
    if (this.#data.length) this.#onData(this.#data.splice(0).join("\n"));
  }
}

/** A POST whose answer is good; everything else is thrown as an error that `on.error` takes. */
async function post(url, body, signal) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (response.ok) return response;
  const text = await response.text();
  const seconds = Number(response.headers.get("Retry-After"));
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // Apache's own error page.
  }
  throw Object.assign(new Error(), {
    told: {
      message: error.message || MEANINGS[response.status] || "The server could not answer.",
      code: error.code,
      status: response.status,
      retryAfter: seconds > 0 ? Math.min(Math.ceil(seconds), 3600) : 0,
    },
  });
}

function describe(error) {
  return error.told ?? { message: "The connection failed before the answer was complete.", code: "connection" };
}

const MEANINGS = {
  403: "Apache does not allow this handoff.",
  413: "The conversation is too long.",
  502: "Whoever gives the answers could not be reached.",
  503: "The service is not there at the moment.",
  504: "Whoever gives the answers took too long.",
};
const BROKEN_OFF = { message: "The connection ended before the answer was complete.", code: "connection" };
const REFUSED = {
  message: "No answer has begun. EventSource is not told why; fetch would be.",
  code: "connection",
};
