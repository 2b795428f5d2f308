// How long an answer took, in numbers; and questions to begin with.

import { apache } from "./apache.js";

const shown = Object.fromEntries(["ttft", "speed", "total"].map((id) => [id, document.getElementById(id)]));
const NOTHING = "–";
let startedAt = 0;
let firstAt = 0;
let pieces = 0;
let tokens = 0;
let timer = 0;

export const facts = {
  begin() {
    facts.clear();
    apache.begin();
    startedAt = performance.now();
    timer = setInterval(() => { shown.total.textContent = seconds(performance.now() - startedAt); }, 100);
  },

  /** A piece of the answer has come. */
  piece() {
    pieces += 1;
    if (firstAt) return;
    firstAt = performance.now();
    shown.ttft.textContent = `${Math.round(firstAt - startedAt)} ms`;
  },

  /** The server has counted. */
  usage(usage) {
    tokens = Number(usage.completion_tokens) || 0;
  },

  /** The last numbers; and in a sentence, for below the answer. */
  end(mode) {
    clearInterval(timer);
    apache.end();
    const now = performance.now();
    shown.total.textContent = seconds(now - startedAt);
    const took = now - firstAt;
    // Of what came at once no speed can be told.
    if (firstAt && pieces > 1 && took >= 100) {
      const rate = ((tokens || pieces) * 1000) / took;
      shown.speed.textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} ${tokens ? "tokens" : "pieces"}/s`;
    }
    const parts = [firstAt && `first word after ${shown.ttft.textContent}`, shown.total.textContent];
    parts.push(shown.speed.textContent !== NOTHING && shown.speed.textContent);
    parts.push(mode === "fetch" ? "fetch" : "EventSource");
    return parts.filter(Boolean).join(" · ");
  },

  clear() {
    clearInterval(timer);
    firstAt = pieces = tokens = 0;
    for (const place of Object.values(shown)) place.textContent = NOTHING;
  },
};

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`;

const CODE = `Please repeat this:

\`\`\`php
Handoff::stream([
    'messages' => $messages,
    'user_id'  => $user,
]);
\`\`\`

It is all that \`chat.php\` needs.`;

/** The mock repeats what it is asked, and does on request what a real one does by accident. */
export function ideas(backend) {
  if (backend !== "mock") {
    return [
      { name: "sky", title: "Why is the sky blue?", about: "in three sentences", question: "Why is the sky blue? Answer in three sentences." },
      { name: "code", title: "Show some code", about: "a small PHP function", question: "Write a small PHP function that reverses a string of UTF-8, and explain it." },
      { name: "long", title: "Tell a long story", about: "and stop it half way", question: "Tell a long story about a postman who never opened a letter." },
    ];
  }
  return [
    { name: "sky", title: "Why is the sky blue?", about: "a short answer", question: "Why is the sky blue?" },
    { name: "code", title: "Show some code", about: "with a block of it", question: CODE },
    { name: "long", title: "Tell a long story", about: "and stop it half way", question: "Tell me a long story.", mock: { length: 600 } },
    { name: "slow", title: "Think before you speak", about: "four seconds of silence", question: "Think about it first.", mock: { first_token_delay_ms: 4000 } },
    { name: "breaks-off", title: "Break off half way", about: "an error in the answer", question: "Break off half way.", mock: { length: 40, fail_at: 20 } },
    { name: "refused", title: "Fail at once", about: "an error before it", question: "Fail at once.", mock: { fail_at: 1 } },
  ];
}
