// Who is signed in, as PHP sees it. A visitor becomes Ada without being asked; there are no passwords in a demo.

const USER = "Ada";
const button = document.getElementById("sign");
let session = load();

/** What PHP says once the page has loaded: {user, backend}. */
export const signedIn = () => session;

/** In or out; without a word the other of the two. */
export async function sign(isIn) {
  const { user } = await session;
  const comes = isIn ?? !user;
  session = call(comes ? "POST" : "DELETE");
  try {
    comes ? sessionStorage.removeItem("signed-out") : sessionStorage.setItem("signed-out", "1");
  } catch {
    // A browser that keeps nothing.
  }
  return session;
}

async function load() {
  const found = await call("GET");
  let wasSignedOut = null;
  try {
    wasSignedOut = sessionStorage.getItem("signed-out");
  } catch {
    // As above.
  }
  return found.user || wasSignedOut ? found : call("POST");
}

async function call(method) {
  let found = { user: null, backend: "unknown" };
  try {
    const headers = { "Content-Type": "application/json" };
    const body = method === "POST" ? JSON.stringify({ user: USER }) : undefined;
    const response = await fetch("session.php", { method, headers, body });
    if (response.ok) found = await response.json();
  } catch {
    // The first question says what is wrong.
  }
  document.getElementById("name").textContent = found.user ? `, ${found.user}` : "";
  button.textContent = found.user ? `${found.user} · Sign out` : "Sign in";
  return found;
}
