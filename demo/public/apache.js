// What Apache is busy with while an answer streams: nothing. Its own mod_status says so, where there is one.

const shown = document.getElementById("apache");
let timer = 0;
let path = "";

export const apache = {
  /** Where mod_status answers; without it nothing is shown. */
  found(statusPath) {
    path = statusPath;
    shown.parentElement.hidden = !path;
  },

  begin() {
    apache.end();
    if (path) timer = setInterval(look, 1000);
  },

  end() {
    clearInterval(timer);
  },
};

async function look() {
  try {
    const response = await fetch(`${path}?auto`, { cache: "no-store" });
    if (!response.ok) return apache.found(""); // not for visitors from elsewhere
    const board = /^Scoreboard: (.+)$/m.exec(await response.text())?.[1] ?? "";
    const writing = board.split("W").length - 1;
    // One of them is writing this very answer.
    shown.textContent = `${Math.max(0, writing - 1)} of ${board.length}`;
  } catch {
    shown.textContent = "–";
  }
}
