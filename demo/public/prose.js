// Shows an answer while it grows. Only text nodes are ever made of it: no HTML in an answer means anything here.
// Of Markdown it knows code blocks, `code`, **strong** and headings; everything else is shown as it came.

const FENCE = /^```([^\n`]*)\n/;

export class Prose {
  #element;
  #text = "";
  #settled = 0; // so much of the text is shown for good
  #live = []; // nodes that the next piece may change
  #frame = 0;

  constructor(element) {
    this.#element = element;
  }

  get text() {
    return this.#text;
  }

  /** Shown with the next picture on the screen, together with what else has come by then. */
  append(delta) {
    this.#text += delta;
    this.#frame ||= requestAnimationFrame(() => this.show());
  }

  show() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    for (const node of this.#live.splice(0)) node.remove();
    for (let rest = this.#text.slice(this.#settled); rest !== "";) {
      const block = firstBlock(rest);
      const node = block.code === undefined ? paragraph(block.text) : codeBlock(block);
      this.#element.append(node);
      rest = rest.slice(block.length);
      if (block.isWhole && this.#live.length === 0) this.#settled += block.length;
      else this.#live.push(node);
    }
  }
}

/** What the text begins with: a code block, or text up to an empty line or the next code block. */
function firstBlock(text) {
  const fence = FENCE.exec(text);
  if (fence) {
    const from = fence[0].length;
    const end = /^```[ \t]*(\n|$)/m.exec(text.slice(from));
    const code = text.slice(from, end ? from + end.index : undefined);
    const isWhole = end !== null && end[0].endsWith("\n");
    return { code, language: fence[1].trim(), length: end ? from + end.index + end[0].length : text.length, isWhole };
  }
  const end = /\n\n+|\n(?=```)/.exec(text);
  // More empty lines may follow the last one.
  const length = end ? end.index + end[0].length : text.length;
  return { text: text.slice(0, length), length, isWhole: end !== null && length < text.length };
}

function paragraph(text) {
  const node = document.createElement("span");
  const pieces = text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*|^#{1,4} .+$)/m);
  pieces.forEach((piece, index) => {
    if (index % 2 === 0) node.append(piece);
    else if (piece.startsWith("`")) node.append(made("code", piece.slice(1, -1)));
    else if (piece.startsWith("#")) node.append(made("strong", piece.replace(/^#+ /, "")));
    else node.append(made("strong", piece.slice(2, -2)));
  });
  return node;
}

function codeBlock({ code, language }) {
  const figure = document.createElement("figure");
  const caption = made("figcaption", "");
  const copy = made("button", ""); // what it says comes from the style: an answer's text is the answer's alone
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy this code");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.dataset.done = "";
    setTimeout(() => delete copy.dataset.done, 1500);
  });
  caption.dataset.language = language || "code";
  caption.append(copy);
  const block = document.createElement("pre");
  block.tabIndex = 0; // so that it can be scrolled by keys
  block.append(made("code", code));
  figure.append(caption, block);
  return figure;
}

function made(name, text) {
  const node = document.createElement(name);
  node.textContent = text;
  return node;
}
