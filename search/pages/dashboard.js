"use strict";
// Asks for the study every two seconds and redraws what changed. Everything from the server is set as
// text, never as HTML.

const EVERY_MS = 2000;
const STATES = ["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAILED", "CANCELLED"];
const byId = (id) => document.getElementById(id);
let mayControl = false;
let refusal = ""; // why the latest action was not done

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function number(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return value === null ? "-" : String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const percent = (share) => (typeof share === "number" ? `${(100 * share).toFixed(2)} %` : null);

function table(heads, rows) {
  const head = element("tr", {}, ...heads.map((name) => element("th", { textContent: name })));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) =>
    element("td", {}, cell instanceof Node ? cell : document.createTextNode(cell)))));
  return element("table", {}, ...(heads.length ? [head] : []), ...body);
}

function curve(losses) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "curve");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  const shown = losses.filter((loss) => typeof loss === "number");
  const low = Math.min(...shown), span = Math.max(...shown) - low || 1;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", shown.map((loss, i) =>
    `${(100 * i) / Math.max(1, shown.length - 1)},${19 - (18 * (loss - low)) / span}`).join(" "));
  svg.append(line);
  return svg;
}

function showHead(told) {
  document.title = `${told.study} · ${told.state}`;
  byId("name").textContent = told.study;
  byId("state").textContent = told.state;
  byId("state").className = `state ${told.state}`;
  byId("message").textContent = told.message;
  byId("progress").max = told.max_trials ?? Math.max(1, told.finished);
  byId("progress").value = told.finished;
  const over = isOver(told);
  const left = over || told.time_left_s === null ? "" : `, about ${duration(told.time_left_s)} left`;
  byId("budget").textContent = `${told.finished}/${told.max_trials ?? "∞"} trials${left}`;
  byId("counts").replaceChildren(...STATES.filter((state) => told.counts[state]).map((state) =>
    element("span", {}, element("span", { className: `dot ${state}` }),
      element("b", { textContent: told.counts[state] }), ` ${state.toLowerCase()}`)));
  showControls(told.study, over ? [] : told.state === "PAUSED" ? ["resume", "stop", "cancel"] : ["pause", "stop", "cancel"]);
}

function isOver(told) {
  return told.state === "COMPLETE" || told.state === "CANCELLED";
}

function showControls(study, actions) {
  const place = byId("controls");
  place.hidden = !mayControl || !actions.length;
  if (place.dataset.shown === study + actions) return;
  place.dataset.shown = study + actions;
  place.replaceChildren(...actions.map((action) => element("button", {
    textContent: action,
    onclick: async () => {
      if (action === "cancel" && !confirm(`Cancel study ${study}? Its running trials are lost.`)) return;
      await act(study, action);
      refresh();
    },
  })));
}

async function act(study, action) {
  try {
    const answer = await fetch(`/study/${study}/${action}`, { method: "POST" });
    refusal = answer.ok ? "" : await answer.text();
  } catch {
    refusal = ""; // nobody answers: the next refresh says so
  }
}

function showBest(told) {
  if (!told.best) {
    byId("best").replaceChildren(element("p", { className: "soft", textContent: told.why_no_best }));
    return;
  }
  const reached = percent(told.best.result.validation_accuracy);
  byId("best").replaceChildren(
    element("div", { className: "big", id: "best-loss", textContent: number(told.best.loss) }),
    element("p", { className: "soft", textContent:
      `${told.loss_name}, trial ${told.best.number}${reached ? `, validation accuracy ${reached}` : ""}` }),
    table([], Object.entries(told.best_settings).map(([name, value]) => [name, number(value)])));
}

function showWork(told) {
  const failure = told.latest_failed?.failures.at(-1);
  byId("failure").textContent = failure
    ? `Trial ${told.latest_failed.number} failed: ${failure.kind}: ${failure.message}` : "";
  const running = told.running.map((trial) => {
    const losses = trial.reports.map((report) => report.loss);
    const step = trial.reports.length ? `step ${trial.reports.at(-1).step}` : "-";
    return [`trial ${trial.number}`, step, losses.length ? number(losses.at(-1)) : "-",
      losses.length > 1 ? curve(losses) : "", trial.host ?? "-"];
  });
  byId("running").replaceChildren(running.length ? table(["", "", "loss", "curve", "host"], running)
    : element("p", { className: "soft", textContent: "No trial runs." }));
  const workers = told.workers.map((worker) => [worker.name,
    worker.slots.map((slot) => slot.device).join(", ") || "-",
    worker.slots.filter((slot) => slot.number !== null && slot.number !== undefined)
      .map((slot) => `${slot.study} ${slot.number}`).join(", ") || worker.message || "idle",
    `${duration(worker.seen_s_ago)} ago`]);
  const none = isOver(told) ? "No worker is alive." : "No worker is alive; start one with: larnn-search worker";
  byId("workers").replaceChildren(workers.length ? table(["worker", "device", "runs", "seen"], workers)
    : element("p", { className: "soft", textContent: none }));
}

function showFigures(told) {
  const place = byId("figures");
  if (place.dataset.study !== told.study) {
    place.dataset.study = told.study;
    place.replaceChildren(...told.figures.map(({ kind }) => element("section", {},
      element("figure", {}, element("img", { id: `figure-${kind}`, alt: kind, loading: "lazy" })))));
  }
  for (const { kind, is_costly } of told.figures) {
    // What takes long is asked for anew after every tenth trial only.
    const version = is_costly && !isOver(told) ? Math.floor(told.finished / 10) : told.finished;
    const address = `/study/${told.study}/${kind}.png?v=${version}`;
    const image = byId(`figure-${kind}`);
    if (image.getAttribute("src") !== address) image.setAttribute("src", address);
  }
}

function showStudies(studies) {
  const chosen = decodeURIComponent(location.hash.slice(1)) || studies[0]?.name;
  const names = studies.map((study) => `${study.name} (${study.state})`).join();
  const list = byId("studies");
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...studies.map((study) =>
      element("option", { value: study.name, textContent: `${study.name} (${study.state.toLowerCase()})` })));
  }
  list.value = chosen;
  return chosen;
}

async function read(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function refresh() {
  try {
    const all = await read("/studies.json");
    mayControl = all.may_control;
    if (!all.studies.length) throw new Error("There is no study yet; start one: larnn-search run --study NAME");
    const told = await read(`/study/${showStudies(all.studies)}.json`);
    for (const show of [showHead, showBest, showWork, showFigures]) show(told);
    showTrouble(refusal);
  } catch (error) {
    showTrouble(error instanceof TypeError
      ? "The dashboard does not answer; is `larnn-search dashboard` still running?" : error.message);
  }
}

function showTrouble(told) {
  byId("trouble").textContent = told;
  byId("trouble").hidden = !told;
}

async function follow() {
  await refresh();
  setTimeout(follow, EVERY_MS);
}

byId("studies").onchange = (event) => { location.hash = event.target.value; };
window.onhashchange = () => { refusal = ""; refresh(); };
follow();
