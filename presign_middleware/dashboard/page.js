// Puts newer parts in the places of those that the server has made, every two seconds.
"use strict";

const EVERY = 2000, WITHIN = 5000; // ms
const shown = new Map(); // by id, as it came: what a browser makes of it reads otherwise
const lost = document.getElementById("lost");

async function renew() {
  try {
    const answer = await fetch("parts.json", {cache: "no-store", signal: AbortSignal.timeout(WITHIN)});
    if (!answer.ok) throw new Error(answer.status);
    for (const [id, html] of Object.entries(await answer.json())) {
      if (shown.get(id) === html) continue;
      shown.set(id, html);
      document.getElementById(id).innerHTML = html;
    }
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

async function live() {
  if (!document.hidden) await renew();
  setTimeout(live, EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || renew());
setTimeout(live, EVERY);
