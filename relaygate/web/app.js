// The dashboard: shows what /api/events tells, and asks /api/act. Nothing is fetched from elsewhere.
"use strict";
const $ = (id) => document.getElementById(id);
const memory = window.sessionStorage; // this tab's alone, and gone with it
let token = memory.getItem("token") || "";
let mayAct = false, shown = null, sessions = [], rates = new Map(), past = { fine: [], coarse: [] };
let longer = false, order = { column: 0, up: true }, plots = {};

async function call(path, body) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch("api/" + path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  if (answer.status === 401) { await demandToken(); return call(path, body); }
  return answer;
}
let demanding = null;
function demandToken() {
  demanding ??= question("This node wants its token.", "Token", "password").then((value) => {
    demanding = null; token = (value || "").trim(); memory.setItem("token", token);
  });
  return demanding;
}
function question(words, label, type) {
  const dialog = $("ask"), input = $("ask-value");
  $("ask-words").textContent = words; $("ask-line").hidden = !label; $("ask-label").textContent = label || "";
  input.type = type || "text"; input.value = ""; dialog.returnValue = "no"; dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes" ? (label ? input.value : "yes") : null), { once: true }));
}
async function act(command) {
  const answer = await call("act", command);
  const text = await answer.text();
  let words = text;
  try { const told = JSON.parse(text); words = told.ok ? "done: " + command.command : told.error; } catch { /* plain words */ }
  $("state").textContent = words;
}

// -- cells: text only, never markup: names come from partners
const units = ["B", "KB", "MB", "GB", "TB", "PB"];
function bytes(value) { let at = 0; while (value >= 1000 && at < 5) { value /= 1000; at++; } return (at ? value.toFixed(1) : Math.round(value)) + " " + units[at]; }
function age(seconds) { return seconds < 120 ? Math.round(seconds) + " s" : seconds < 7200 ? Math.round(seconds / 60) + " min" : seconds < 172800 ? Math.round(seconds / 3600) + " h" : Math.round(seconds / 86400) + " days"; }
const number = (text) => ({ text, kind: "number" });
const mark = (ok, text) => ({ text, kind: ok ? "good" : "bad" });
const button = (text, label, press) => ({ text, label, press });
function fill(table, heads, rows, sortable) {
  const key = heads.join();
  if (table.dataset.heads !== key) {
    table.dataset.heads = key;
    const line = document.createElement("tr");
    heads.forEach((head, at) => {
      const cell = document.createElement("th"); cell.scope = "col";
      if (sortable && head) { const press = document.createElement("button"); press.type = "button"; press.textContent = head; press.onclick = () => { order = { column: at, up: order.column === at ? !order.up : true }; drawSessions(); }; cell.append(press); } else cell.textContent = head || "\u00a0";
      line.append(cell);
    });
    const head = document.createElement("thead"); head.append(line); table.replaceChildren(head, document.createElement("tbody"));
  }
  if (sortable) table.querySelectorAll("th").forEach((cell, at) => { if (at === order.column) cell.setAttribute("aria-sort", order.up ? "ascending" : "descending"); else cell.removeAttribute("aria-sort"); });
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.label : null;
  const body = table.tBodies[0], lines = document.createDocumentFragment();
  for (const row of rows) {
    const line = document.createElement("tr");
    for (const value of row) {
      const cell = document.createElement("td");
      if (value && value.press) { const press = document.createElement("button"); press.type = "button"; press.textContent = value.text; press.dataset.label = value.label; press.setAttribute("aria-label", value.label); press.onclick = value.press; cell.append(press); }
      else if (value && typeof value === "object") { cell.textContent = value.text; cell.className = value.kind; }
      else cell.textContent = value === undefined || value === null ? "" : String(value);
      line.append(cell);
    }
    lines.append(line);
  }
  body.replaceChildren(lines);
  if (rows.length) table.querySelectorAll("th").forEach((cell, at) => { cell.className = rows[0][at]?.kind === "number" ? "number" : ""; });
  // A button that became its opposite (Drain, Resume) keeps the focus too.
  if (focused) { const other = focused.replace(/^(Drain|Resume) /, (word) => (word === "Drain " ? "Resume " : "Drain ")), again = body.querySelector(`[data-label="${CSS.escape(focused)}"]`) ?? body.querySelector(`[data-label="${CSS.escape(other)}"]`); if (again) again.focus(); }
}

function draw() {
  const { status } = shown;
  $("node").textContent = status.node; document.title = "relaygate " + status.node;
  $("state").textContent = `${status.software}, up ${age(status.uptime_seconds)}, ${status.sessions} session${status.sessions === 1 ? "" : "s"}, certificate until ${status.certificate_ends.slice(0, 10)}`;
  document.querySelectorAll("[data-act]").forEach((each) => { each.hidden = !mayAct; });
  fill($("gateways"), ["name", "address", "uplink", "for", "idle channels", "sessions there", "software", "refused"], status.gateways.map((each) => [
    each.name, each.address, mark(each.state === "up", each.state === "up" ? "up" : "down: " + each.last_failure), age(each.up_seconds),
    number(each.idle_channels.clear + each.idle_channels.tls), number(each.report ? each.report.figures.sessions ?? "" : ""), each.report ? each.report.software : "",
    Object.keys(each.refused).length ? mark(false, Object.entries(each.refused).map((pair) => pair.join(": ")).join("; ")) : "none"]));
  fill($("services"), ["name", "protocol", "state", "sessions", "opened", "refused", "in", "out", "backends", "act"], status.services.map((each) => {
    const down = each.backends.filter((one) => (one.state ?? "up") !== "up");
    return [each.name, each.protocol, mark((each.state ?? "offered") === "offered", each.state ?? ""), number(each.sessions), number(each.opened), number(each.refused), number(bytes(each.bytes_in)), number(bytes(each.bytes_out)),
      mark(!down.length, `${each.backends.length - down.length} of ${each.backends.length} up`), steer("service", each.name, each.state === "drained")]; }));
  fill($("backends"), ["service", "backend", "state", "sessions", "opened", "failed", "act"], status.services.flatMap((each) => each.backends.map((one) => [
    each.name, one.address + (one.backup ? " (backup)" : ""), mark((one.state ?? "up") === "up", one.state ?? ""), number(one.sessions ?? ""), number(one.opened ?? ""), number(one.failed ?? ""),
    steer("backend", one.address, one.state === "drained", each.name)])));
  const entries = status.forwards ?? [];
  $("entries").closest("section").hidden = !entries.length;
  fill($("entries"), ["name", "protocol", "listens at", "leads to", "sessions", "opened", "refused", "out to partners", "back"], entries.map((each) => [
    each.name, each.protocol, each.listen, each.target === "-" ? "what its list has" : each.target, number(each.sessions), number(each.opened), number(each.refused), number(bytes(each.bytes_in)), number(bytes(each.bytes_out))]));
  fill($("certificates"), ["of", "name", "ends", "days left"], (status.certificates ?? []).map((each) => {
    const days = Math.floor((new Date(each.ends) / 1000 - shown.now) / 86400);
    return [each.kind, each.name, each.ends.slice(0, 16).replace("T", " "), { text: days < 30 ? days + ": renew it" : String(days), kind: days < 30 ? "bad" : "number" }]; }));
  // Endings are sent only when there are new ones.
  if (shown.recent) fill($("recent"), ["when", "service", "client", "user", "outcome", "in words"], shown.recent.slice().reverse().map((each) => [
    new Date(each.time * 1000).toLocaleTimeString(), each.service, each.client, each.user, each.outcome, { text: inWords(each), kind: "wide" }]));
}
function steer(kind, name, drained, service) {
  if (!mayAct) return "";
  const of = kind + " " + name + (service ? " of " + service : ""), command = { kind, name, ...(service && { service }) };
  if (drained) return button("Resume", "Resume " + of, () => act({ command: "resume", ...command }));
  return button("Drain", "Drain " + of, async () => { if (await question(`Drain ${of}? It takes no new sessions; those that run finish.`)) act({ command: "drain", ...command }); });
}
const causes = { done: "it ended as it should", client: "the client broke off", inside: "the inside ended it", backend: "the server broke off or was not there", policy: "a list, a cap or an operator ended it", timeout: "it took too long, or was idle", uplink: "the nodes lost each other", shutdown: "a node was stopped", fault: "a fault in relaygate: see the log" };
function inWords(each) { const [cause, phase] = String(each.outcome).split("/"); return (causes[cause] ?? each.outcome) + (phase === "open" ? ", before it began" : "") + (each.detail ? ": " + each.detail : ""); }

function drawSessions() {
  const wanted = $("filter").value.toLowerCase();
  const rows = sessions.filter((each) => !wanted || [each.client, each.user, each.service, each.gateway, each.backend, each.session].join(" ").toLowerCase().includes(wanted));
  const values = [(s) => s.service, (s) => s.client, (s) => s.user ?? "", (s) => s.direction ?? "", (s) => s.gateway, (s) => s.backend ?? "", (s) => s.bytes_in, (s) => s.bytes_out, (s) => rates.get(s.session)?.rate ?? 0, (s) => s.seconds];
  const by = values[order.column] ?? values[0];
  rows.sort((one, two) => { const a = by(one), b = by(two); return (a < b ? -1 : a > b ? 1 : 0) * (order.up ? 1 : -1); });
  $("count").textContent = `(${rows.length} of ${sessions.length})`;
  fill($("sessions"), ["service", "client", "user", "direction", "DMZ node", "backend", "in", "out", "a second", "age", "act"], rows.slice(0, 500).map((each) => [
    each.service, each.client, each.user, each.direction, each.gateway, each.backend, number(bytes(each.bytes_in)), number(bytes(each.bytes_out)), number(bytes(rates.get(each.session)?.rate ?? 0)), number(age(each.seconds)),
    mayAct ? button("End", "End the session of " + each.client + ", " + each.session, async () => { if (await question(`End the session of ${each.client} now? Its transfer breaks off.`)) act({ command: "end", session: each.session }); }) : ""]), true);
}
let inSight = false, looking = false;
async function lookAtSessions() {
  // A list that nobody sees is not asked for.
  if (!inSight || looking) return;
  looking = true;
  try { await askForSessions(); } finally { looking = false; }
}
async function askForSessions() {
  let found = [], after = "";
  // Few at a time, with pauses: what the node does for this page, it does not do for clients.
  for (let page = 0; page < 200; page++) {
    if (page) await new Promise((done) => setTimeout(done, 50));
    const answer = await (await call("look?command=sessions&after=" + encodeURIComponent(after))).json();
    if (!answer.ok) return;
    // Of a program on its way out: the entry, and where it wants to go.
    found = found.concat(answer.result.sessions.map((each) => ({ ...each, service: each.service || each.entry, backend: each.backend || each.destination })));
    if (!answer.result.more || !answer.result.sessions.length) break;
    after = answer.result.sessions.at(-1).session;
  }
  const now = performance.now() / 1000, fresh = new Map();
  for (const each of found) { const before = rates.get(each.session), moved = each.bytes_in + each.bytes_out; fresh.set(each.session, { now, moved, rate: before ? Math.max(0, (moved - before.moved) / Math.max(0.1, now - before.now)) : 0 }); }
  rates = fresh; sessions = found; drawSessions();
}
async function lookAtBans() {
  const answer = await (await call("look?command=bans")).json();
  if (!answer.ok) return;
  const bans = answer.result.bans ?? [];
  fill($("bans"), ["network", "for", "because", "act"], bans.map((each) => [each.network, age(each.seconds), each.reason ?? "",
    mayAct ? button("Lift", "Lift the ban of " + each.network, () => act({ command: "unban", networks: [each.network] })) : ""]));
}

function plot(id, series, format) {
  const width = $(id).clientWidth || 300, style = getComputedStyle(document.documentElement), line = style.getPropertyValue("--line"), fore = style.getPropertyValue("--fore");
  const axis = { stroke: fore, grid: { stroke: line }, ticks: { stroke: line } };
  plots[id]?.destroy();
  plots[id] = new uPlot({ width, height: 180, cursor: { drag: { x: false } }, scales: { x: { range: () => { const end = shown ? shown.now : Date.now() / 1000; return [end - (longer ? 86400 : 900), end]; } }, y: { range: (_, low, high) => [0, Math.max(1, (high || 0) * 1.1)] } }, series: [{}, ...series], axes: [axis, { ...axis, size: 70, values: (_, all) => all.map(format) }] }, [[], ...series.map(() => [])], $(id));
}
function setUpPlots() {
  plot("plot-sessions", [{ label: "sessions", stroke: "#0969da", width: 2 }], (value) => String(value));
  plot("plot-bytes", [{ label: "in", stroke: "#1a7f37", width: 2 }, { label: "out", stroke: "#bc4c00", width: 2 }], (value) => bytes(value));
  drawPlots();
}
function drawPlots() {
  const points = longer ? past.coarse : past.fine;
  const column = (at) => points.map((point) => point[at]);
  plots["plot-sessions"].setData([column(0), column(1)]); plots["plot-bytes"].setData([column(0), column(2), column(3)]);
}
async function lookAtThePast() { past = await (await call("past")).json(); mayAct = past.may_act; drawPlots(); }

async function watch() {
  for (;;) {
    try {
      const answer = await call("events");
      if (!answer.ok) throw new Error(await answer.text());
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const event = text.slice(0, end);
          if (event.startsWith("data: ")) { shown = JSON.parse(event.slice(6)); draw(); document.body.dataset.live = shown.now; }
        }
      }
    } catch (error) { $("state").textContent = "the node does not answer: " + error.message; }
    await new Promise((done) => setTimeout(done, 2000));
  }
}
function every(seconds, look) {
  const again = async () => { try { if (!document.hidden) await look(); } catch { /* watch() tells */ } setTimeout(again, seconds() * 1000); };
  again();
}
// Some of the list's bottom and top count as seen, so that it is there when somebody scrolls to it.
new IntersectionObserver((all) => { const before = inSight; inSight = all.some((each) => each.isIntersecting); if (inSight && !before && shown) lookAtSessions().catch(() => {}); }, { rootMargin: "200px" }).observe($("sessions").closest("section"));
$("filter").addEventListener("input", drawSessions);
$("longer").addEventListener("click", () => { longer = !longer; $("longer").setAttribute("aria-pressed", longer); $("span").textContent = longer ? "24 hours" : "15 minutes"; $("longer").textContent = longer ? "15 minutes" : "24 hours"; drawPlots(); });
$("forget").addEventListener("click", () => { memory.removeItem("token"); location.reload(); });
$("drain-node").addEventListener("click", async () => { if (await question("Drain this node? It takes no new sessions; those that run finish.")) act({ command: "drain", kind: "node" }); });
$("resume-node").addEventListener("click", () => act({ command: "resume", kind: "node" }));
$("ban").addEventListener("click", async () => { const network = await question("Ban which network or address, for an hour?", "Network"); if (network) act({ command: "ban", networks: [network.trim()], seconds: 3600 }); });
window.addEventListener("resize", setUpPlots);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", setUpPlots);
setUpPlots();
(async () => { await lookAtThePast(); watch(); every(() => Math.max(3, sessions.length / 200), lookAtSessions); every(() => 5, lookAtThePast); every(() => 5, lookAtBans); })();
