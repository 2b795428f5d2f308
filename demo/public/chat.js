// The page: a conversation of turns, each a question and its answer. At most one answer comes at a time.

import { apache } from "./apache.js";
import { Prose } from "./prose.js";
import { facts, ideas } from "./facts.js";
import { transports } from "./transports.js";
import { sign, signedIn } from "./session.js";

const element = (id) => document.getElementById(id);
const [form, prompt, send, stop] = ["form", "prompt", "send", "stop"].map(element);
const [status, messages, scroller, clear] = ["status", "messages", "scroll", "clear"].map(element);

const SAYS = {
  idle: "Ready",
  waiting: "Waiting for the first word…",
  streaming: "Streaming…",
  complete: "Complete",
  stopped: "Stopped",
  failed: "Failed",
};
const MESSAGES_MAX = 100; // of a conversation go along with a question

let turns = []; // {question, mock, prose}, in order
let current = null; // the turn that is being answered

// --- A question, and what becomes of it.

async function ask(question, mock) {
  if (current || question.trim() === "") return;
  const turn = { question, mock };
  turns.push(turn);
  messages.append(bubble("user", question));
  await answer(turn);
}

async function answer(turn) {
  turn.element?.remove();
  turn.element = bubble("assistant", "");
  turn.element.setAttribute("aria-busy", "true");
  turn.prose = new Prose(turn.element.querySelector(".text"));
  turn.mode = form.ownerDocument.querySelector("[name=transport]:checked").value;
  messages.append(turn.element);
  follow = true;
  turn.stop = () => {}; // until it has been sent
  current = turn;
  facts.begin();
  show("waiting");
  await signedIn();
  if (current !== turn) return; // stopped in the meantime
  facts.begin();
  const mine = (does) => (value) => { if (current === turn) does(value); };
  turn.stop = transports[turn.mode]({ messages: history(turn), mock: turn.mock }, {
    text: mine((delta) => {
      if (turn.prose.text === "") show("streaming");
      facts.piece();
      turn.prose.append(delta);
    }),
    usage: mine((usage) => facts.usage(usage)),
    done: mine(() => end("complete")),
    error: mine((error) => {
      end("failed");
      turn.element.append(trouble(error, turn));
    }),
  });
}

/** What was said before and has an answer, and the question itself. */
function history(turn) {
  const said = turns.slice(0, turns.indexOf(turn)).filter(({ prose }) => prose.text !== "");
  const both = said.flatMap(({ question, prose }) => [
    { role: "user", content: question },
    { role: "assistant", content: prose.text },
  ]);
  return [...both.slice(-MESSAGES_MAX), { role: "user", content: turn.question }];
}

/** The turn is over, however it ended. */
function end(state) {
  const turn = current;
  current = null;
  turn.stop();
  turn.prose.show();
  turn.element.setAttribute("aria-busy", "false");
  turn.element.dataset.state = state;
  const told = facts.end(turn.mode);
  if (state !== "failed") {
    turn.element.append(made("p", "meta", state === "stopped" ? `Stopped · ${told}` : told));
  }
  const hadFocus = document.activeElement === stop;
  show(state);
  if (hadFocus) focus();
}

/** What went wrong, and the way out of it. */
function trouble(error, turn) {
  const box = made("div", "error");
  const code = [error.code, error.status && `HTTP ${error.status}`].filter(Boolean).join(" · ");
  const retry = made("button", "retry", error.status === 401 ? "Sign in and try again" : "Try again");
  retry.type = "button";
  const wait = made("span", "wait");
  box.append(made("p", "why", error.message), made("p", "code", code), retry, wait);
  if (error.retryAfter) countDown(wait, error.retryAfter);
  retry.addEventListener("click", async () => {
    if (current) return;
    if (error.status === 401) await sign(true);
    // The mock was to fail once. A later turn's question stays behind its own answer: this one moves to the end.
    turn.mock = undefined;
    turns = [...turns.filter((other) => other !== turn), turn];
    box.closest(".message").previousElementSibling?.remove();
    messages.append(bubble("user", turn.question));
    answer(turn);
  });
  return box;
}

/** Nobody is asked again without being told to: this only says when it makes sense. */
function countDown(wait, seconds) {
  const until = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    wait.textContent = left > 0 ? `best in ${left} s` : "";
    if (left > 0 && wait.isConnected) setTimeout(tick, 250);
  };
  wait.textContent = `best in ${seconds} s`;
  setTimeout(tick, 250);
}

// --- What the page shows.

function show(state) {
  const isBusy = state === "waiting" || state === "streaming";
  status.dataset.state = state;
  status.textContent = SAYS[state];
  send.hidden = isBusy;
  stop.hidden = !isBusy;
  send.disabled = prompt.value.trim() === "";
  clear.hidden = turns.length === 0;
  clear.disabled = isBusy;
  element("welcome").hidden = turns.length > 0;
}

function bubble(role, text) {
  const article = made("article", `message ${role}`);
  article.append(made("h3", "unseen", role === "user" ? "You" : "Answer"), made("div", "text", text));
  return article;
}

function made(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

// New words are followed, unless the reader has scrolled up.
let follow = true;
scroller.addEventListener("scroll", () => {
  follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}, { passive: true });
new ResizeObserver(() => { if (follow && turns.length) scroller.scrollTop = scroller.scrollHeight; }).observe(messages);

// --- What people do.

/** Where the next question is typed; on a telephone that would open the keyboard over the answer. */
function focus() {
  if (!matchMedia("(pointer: coarse)").matches) prompt.focus();
}

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
  send.disabled = prompt.value.trim() === "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (current) return;
  const question = prompt.value;
  prompt.value = "";
  fit();
  ask(question);
});
prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
stop.addEventListener("click", () => { if (current) end("stopped"); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && current) end("stopped");
});
clear.addEventListener("click", () => {
  turns = [];
  messages.replaceChildren();
  facts.clear();
  show("idle");
  scroller.scrollTop = 0;
  focus();
});
element("sign").addEventListener("click", () => sign());

signedIn().then(({ backend, apache_status }) => {
  apache.found(apache_status);
  for (const idea of ideas(backend)) {
    const button = made("button", "idea", idea.title);
    button.type = "button";
    button.id = `idea-${idea.name}`;
    button.append(made("span", "", idea.about));
    button.addEventListener("click", () => {
      ask(idea.question, idea.mock);
      focus();
    });
    element("ideas").append(button);
  }
});
fit();
