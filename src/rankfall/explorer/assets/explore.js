"use strict";
// The page's own part: native controls on one side, Bokeh's plots on the other. No text from outside becomes markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const setup = JSON.parse($("setup").textContent), items = JSON.parse($("items").textContent);
  const { controls, presets } = setup;
  const state = { values: { ...setup.values }, status: null, generation: -1, frames: 0, painted: [], asked: 0, drawn: null, preset: setup.preset };
  window.rankfallExplore = state;  // for tests and the curious
  let request = null, sending = 0, waiting = null;

  // ---- theme
  const wish = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem("rankfall-theme"); } catch { return null; } };
  const isDark = () => (chosen() ?? (wish.matches ? "dark" : "light")) === "dark";
  function applyTheme() {
    const dark = isDark();
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "Light" : "Dark";
    $("theme").setAttribute("aria-pressed", String(dark));
    send({ do: "theme", dark });
  }
  $("theme").onclick = () => { try { localStorage.setItem("rankfall-theme", isDark() ? "light" : "dark"); } catch { /* private mode */ } applyTheme(); };
  wish.addEventListener("change", applyTheme);

  // ---- to the server
  function send(message) { if (request) request.data = { json: [JSON.stringify({ ...message, n: ++sending })] }; }
  function settingsChanged() {
    state.asked = performance.now();
    clearTimeout(waiting);
    waiting = setTimeout(() => { waiting = null; send({ do: "settings", values: state.values }); }, 40);
  }

  // ---- controls
  const two = (x) => Number(x.toPrecision(2));
  const toSlider = (c, v) => (c.scale === "log" ? Math.log10(v) : v);
  const fromSlider = (c, x) => c.scale === "log" ? Math.min(c.high, Math.max(c.low, two(10 ** x))) : c.scale === "whole" ? Math.round(x) : Number(x.toFixed(3));
  function showValues() {
    for (const [name, c] of Object.entries(controls)) {
      const input = $("c-" + name), value = state.values[c.field];
      if (document.activeElement !== input || input.type === "range") input.value = name === "seed" ? value : toSlider(c, value);
      if ($("o-" + name)) $("o-" + name).textContent = String(value);
      if (input.type === "range") input.setAttribute("aria-valuetext", `${c.symbol} ${value}`);
    }
    for (const name of setup.choices) $("c-" + name).value = state.values[name];
  }
  for (const [name, c] of Object.entries(controls)) {
    $("c-" + name).addEventListener("input", (event) => {
      const input = event.target;
      if (input.value === "" || !input.validity.valid) return;
      state.values[c.field] = name === "seed" ? Number(input.value) : fromSlider(c, Number(input.value));
      if (name === "rank" || name === "p" || name === "k") state.values.teacher_rank = Math.min(state.values.teacher_rank, state.values.n_inputs, state.values.n_outputs);
      showValues(); settingsChanged();
    });
  }
  for (const name of setup.choices) $("c-" + name).addEventListener("change", (event) => { state.values[name] = event.target.value; settingsChanged(); });
  $("form").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-preset]")) button.onclick = () => {
    state.preset = button.dataset.preset; state.asked = performance.now(); send({ do: "preset", name: state.preset });
  };

  // ---- transport
  const toggle = () => { state.asked = performance.now(); send({ do: state.status && state.status.running ? "pause" : "run" }); };
  $("run").onclick = toggle;
  $("step").onclick = () => send({ do: "step" });
  $("reset").onclick = () => { state.asked = performance.now(); send({ do: "reset" }); };
  $("speed").onchange = (event) => send({ do: "speed", save_points: Number(event.target.value) });
  $("scale").onclick = () => send({ do: "scale", linear: $("scale").getAttribute("aria-pressed") !== "true" });
  const address = () => { const query = state.status ? state.status.query : ""; return location.origin + location.pathname + (query ? "?" + query : ""); };
  $("share").onclick = async () => {
    $("shared").hidden = false; $("address").value = address(); $("copied").textContent = "";
    try { await navigator.clipboard.writeText(address()); $("copied").textContent = "copied"; } catch { $("address").focus(); $("address").select(); }
  };
  $("downloads").addEventListener("click", (event) => { if (event.target.closest("a")) $("downloads").open = false; });
  document.addEventListener("click", (event) => { if (!event.target.closest("#downloads")) $("downloads").open = false; });
  for (const button of document.querySelectorAll(".enlarge")) button.onclick = () => {
    const big = button.closest(".card").classList.toggle("big"); button.setAttribute("aria-pressed", String(big));
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const on = event.target.closest ? event.target.closest("input:not([type=range]), select, textarea, button, summary, a") : null;
    if (event.key === "Escape") $("downloads").open = false;
    if (event.key === " " && !on) { event.preventDefault(); toggle(); return; }
    if (on && on.matches("input, select, textarea")) return;
    const act = { s: "step", r: "reset", l: "scale", d: "theme" }[event.key.toLowerCase()];
    if (act) { event.preventDefault(); $(act).click(); }
  });
  if (matchMedia("(max-width: 820px)").matches) $("controls").open = false;

  // ---- from the server
  const shapes = { PASS: ["pass", "✓"], FAIL: ["fail", "✗"], UNDECIDED: ["open", "?"] };
  function make(kind, text, className) { const node = document.createElement(kind); if (text !== undefined) node.textContent = text; if (className) node.className = className; return node; }
  let lightsShown = "", textShown = {};
  function setText(id, text) { if (textShown[id] !== text) { textShown[id] = text; $(id).textContent = text; } }
  function notice(id, text) { setText(id, text); $(id).hidden = !text; }
  function showLights(verdicts) {
    const now = JSON.stringify(verdicts);
    if (now === lightsShown) return;
    lightsShown = now;
    $("lights").replaceChildren(...verdicts.map((v) => {
      const [kind, mark] = shapes[v.status];
      const light = make("li", undefined, kind), shape = make("span", undefined, "shape");
      shape.append(make("i", mark)); shape.setAttribute("aria-hidden", "true");
      light.append(shape, make("b", v.status), make("span", v.law), make("small", v.detail));
      light.title = v.statement + (v.note ? "\n" + v.note : ""); light.dataset.law = v.law; light.dataset.status = v.status;
      return light;
    }));
  }
  let told = 0, behind = 0;
  function showStatus(status) {
    const before = state.status;
    state.status = status;
    document.body.dataset.state = status.state;
    const renewed = !before || before.generation !== status.generation;
    if (renewed) showRun(status);
    // Words eight times a second: changing them at every frame would cost more than drawing the plots.
    clearTimeout(behind);
    const wait = renewed || status.state !== "running" ? 0 : Math.max(0, told + 125 - performance.now());
    behind = setTimeout(showWords, wait);
  }
  function showWords() {
    const status = state.status;
    told = performance.now();
    setText("run", status.running ? "Pause" : status.finished ? "Run again" : "Run");
    $("progress").value = status.progress;
    setText("clock", status.state === "compiling" ? "compiling (once) …" : `t = ${status.time} of ${status.end}`);
    setText("headline", status.headline);
    notice("problem", status.problem); notice("warning", status.warning);
    for (const [name, text] of Object.entries(status.captions)) setText("caption-" + name, text);
    for (const [name, text] of Object.entries(status.silent)) {
      const note = document.querySelector(`[data-plot="${name}"] .silent`);
      if (note.textContent !== text) note.textContent = text;
      note.hidden = !text;
    }
    showLights(status.verdicts);
    $("scale").setAttribute("aria-pressed", String(status.linear)); setText("scale", status.linear ? "logarithmic" : "linear");
  }
  function showRun(status) {
    if (!waiting) state.values = { ...status.values };
    showValues();
    const query = status.query;
    history.replaceState(null, "", query ? "?" + query : location.pathname);
    for (const name of Object.keys(controls).concat(setup.choices)) {
      const idle = !status.acting.includes(name), field = document.querySelector(`[data-field="${name}"]`);
      field.classList.toggle("idle", idle); $("c-" + name).disabled = idle;
    }
    for (const link of document.querySelectorAll("[data-file]")) link.href = `download/${status.token}/${link.dataset.file}`;
    const preset = status.preset && presets[status.preset];
    setText("story", preset ? preset.sentences.join(" ") : "Your own run: the address above holds its settings, Share copies it.");
    for (const button of document.querySelectorAll("[data-preset]")) button.setAttribute("aria-pressed", String(button.dataset.preset === status.preset));
    for (const card of document.querySelectorAll(".card")) card.classList.toggle("first", Boolean(preset) && card.dataset.plot === preset.plot);
  }
  // ---- frames: the curves are kept here, Bokeh's sources are filled from them
  const film = { time: [], columns: [], values: 0, modes: 0, colours: [], count: 0 };
  state.film = film;
  const model = (name) => state.document.get_model_by_name("data_" + name);
  const number = (x) => (x === null ? NaN : x);
  function draw(frame, all) {
    const rows = frame.rows;
    if (frame.guards) {
      Object.assign(film, { values: frame.values, modes: frame.modes, colours: frame.colours, guards: frame.guards, count: 0 });
      film.columns = rows[0].map(() => []);
      for (const name of Object.keys(frame.guards)) showGuard(name);
    }
    for (const row of rows) for (let i = 0; i < row.length; i++) film.columns[i].push(number(row[i]));
    film.count += 1;
    // Copies: Bokeh takes an array that it has seen for unchanged.
    const c = (i) => Float64Array.from(film.columns[i]);
    const time = c(0);
    model("log_det").data = { time, low: c(1), middle: c(2), high: c(3), law: c(10) };
    showSingular();
    model("eigenvalues").data = lines(12 + 2 * film.values, film.modes, (y) => Float64Array.from(y));
    const [x0, y0, x1, y1] = frame.arrows;
    model("arrows").data = { x0, y0, x1, y1 };
    if (frame.guards || film.count % 3 === 0) model("guard_eigenvalues").data = { x: [0, 0], y: frame.reach };
    // Every third frame is enough for these: it leaves time for the other three.
    if (all || frame.guards || film.count % 3 === 0) {
      model("loss").data = { time, low: c(4), middle: c(5), high: c(6) };
      model("balance").data = { time, low: c(7), middle: c(8), high: c(9), law: c(11) };
      model("bars").data = { place: frame.bars[0], rate: frame.bars[1].map(number) };
      model("law").data = { place: frame.law[0], rate: frame.law[1] };
    }
  }
  function lines(first, count, change) {
    const ys = film.columns.slice(first, first + count).map(change);
    const time = Float64Array.from(film.columns[0]);
    return { xs: ys.map(() => time), ys, colour: film.colours.slice(0, count) };
  }
  const asShown = (y) => Float64Array.from(y, (v) => (state.status.linear ? 10 ** v : v));
  function showSingular() {
    model("paths").data = lines(12 + film.values, film.values, asShown);
    model("singular").data = lines(12, film.values, asShown);
  }
  function showGuard(name) {
    const [x, y] = film.guards[name];
    model("guard_" + name).data = { x, y: name === "singular" && state.status.linear ? [0, 0] : y };
  }
  let rateShown = 0, acknowledged = 0;
  function painted() {  // Bokeh has redrawn
    const now = performance.now(), status = state.status;
    if (!status || state.drawn === status.frame) return;
    state.drawn = status.frame;
    if (status.draw) {
      state.frames += 1;
      state.painted.push(now);
    }
    if (state.generation !== status.generation) {
      state.generation = status.generation;
      if (state.asked) { state.restart = now - state.asked; state.asked = 0; }
    }
    while (state.painted[0] < now - 2000) state.painted.shift();
    if (now - rateShown > 500) { rateShown = now; setText("rate", status.running ? `${(state.painted.length / 2).toFixed(0)} frames a second` : ""); }
    if (status.frame - acknowledged > 1 || !status.running) { acknowledged = status.frame; send({ do: "drawn", frame: status.frame }); }
  }
  // Bokeh looks up a CSS variable for every property of every label that it paints. This page sets none of them.
  // And the size of the page's letters, which makes the browser work out all styles again; the labels here are in pixels.
  try {
    Bokeh.require("core/visuals/visual").VisualProperties.prototype._get_css_value = () => "";
    const plot = Bokeh.require("models/plots/plot_canvas").PlotView.prototype, paint = plot._actual_paint;
    Object.defineProperty(plot, "base_font_size", { get: () => 13 });
    plot._actual_paint = function (...given) {
      const result = paint.apply(this, given);
      if (this.model.name === "log_det") painted();
      return result;
    };
    state.watched = typeof paint === "function";
  } catch { /* slower, that is all */ }
  async function begin() {
    const views = await Bokeh.embed.embed_items({}, items);
    const doc = Bokeh.documents[0];
    request = doc.get_model_by_name("request");
    const status = doc.get_model_by_name("status");
    state.document = doc;
    const read = () => {
      const news = JSON.parse(status.data.json[0]), scaled = state.status && state.status.linear !== news.linear;
      showStatus(news);
      if (scaled && film.count) { showSingular(); showGuard("singular"); }
      if (news.draw) draw(news.draw, !news.running);
      // Where painting cannot be watched: Bokeh paints in the next animation frame, the one after that tells that it has.
      if (!news.draw || !state.watched) requestAnimationFrame(() => requestAnimationFrame(painted));
      else setTimeout(painted, 400);  // in case that nothing has changed, and a plot need not be painted
    };
    status.connect(status.properties.data.change, read);
    applyTheme();
    read();
    send({ do: "hello" });
    void views;
  }
  applyThemeEarly();
  function applyThemeEarly() { document.documentElement.dataset.theme = isDark() ? "dark" : "light"; }
  begin().catch((error) => { notice("problem", "The plots could not be loaded: " + error); console.error(error); });
})();
