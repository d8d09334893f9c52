"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  root.classList.add("scripted");

  // ------------------------------------------------------------------ theme
  const themes = ["system", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("dlstudy-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    byId("theme").querySelector("span").textContent = theme;
    try { localStorage.setItem("dlstudy-theme", theme); } catch { /* not kept */ }
  };
  setTheme(themes.includes(remembered()) ? remembered() : "system");
  byId("theme").addEventListener("click", () => {
    const now = root.dataset.theme || "system";
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  // ------------------------------------------------------------------ the table: filter, sort
  const body = byId("ledger").tBodies[0];
  const rows = [...body.rows];
  const inputs = { q: byId("filter-text"), verdict: byId("filter-verdict"), experiment: byId("filter-experiment") };
  const headers = all("#ledger th[data-sort]");
  rows.forEach((row, i) => { row.dataset.order = i; });

  const keepState = () => {
    const state = new URLSearchParams();
    for (const [name, input] of Object.entries(inputs)) if (input.value) state.set(name, input.value);
    const sorted = headers.find((th) => th.hasAttribute("aria-sort"));
    if (sorted) state.set("sort", `${headers.indexOf(sorted)}${sorted.getAttribute("aria-sort")[0]}`);
    try {
      history.replaceState(null, "", `${location.pathname}${state.size ? `?${state}` : ""}${location.hash}`);
    } catch { /* some browsers keep the address of a file as it is */ }
  };
  const filter = () => {
    const words = inputs.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = `${row.textContent} ${row.dataset.experiment}`.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word))
        && (!inputs.verdict.value || row.dataset.verdict === inputs.verdict.value)
        && (!inputs.experiment.value || row.dataset.experiment === inputs.experiment.value));
      count += !row.hidden;
    }
    byId("shown").textContent = count === rows.length
      ? `All ${count} rows: sentences and their parts` : `${count} of ${rows.length} rows shown`;
  };
  const sort = (th, direction) => {
    const column = th.cellIndex;
    const key = (row) => {
      if (th.dataset.sort === "order") return Number(row.dataset.order);
      const value = row.cells[column].dataset.value;
      return value === "" ? value : Number(value);
    };
    const sign = direction === "descending" ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1; // what has no value comes last
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a.dataset.order - b.dataset.order;
    };
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", direction);
    body.append(...rows.slice().sort(compare));
    body.classList.toggle("sorted", th.dataset.sort !== "order" || sign < 0);
  };
  for (const th of headers) {
    const button = document.createElement("button");
    button.type = "button";
    th.dataset.label = th.textContent;
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => {
      sort(th, th.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      keepState();
    });
  }
  const form = document.querySelector(".filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { filter(); keepState(); });
  form.addEventListener("reset", () => setTimeout(() => { filter(); keepState(); }));
  const state = new URLSearchParams(location.search);
  for (const [name, input] of Object.entries(inputs)) input.value = state.get(name) || "";
  if (inputs.verdict.selectedIndex < 0) inputs.verdict.value = "";
  if (inputs.experiment.selectedIndex < 0) inputs.experiment.value = "";
  const [, column, way] = /^(\d+)([ad])$/.exec(state.get("sort") || "") || [];
  if (headers[column]) sort(headers[column], way === "d" ? "descending" : "ascending");
  filter();

  // ------------------------------------------------------------------ charts
  const { config, charts } = JSON.parse(byId("specs").textContent);
  const NARROW = 560; // pixels
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const drawn = new Map(); // element: promise of its view

  const specOf = (place) => {
    const found = charts[place];
    if (!found.data_of) return structuredClone(found);
    const spec = structuredClone(charts[found.data_of]); // one specification, many data
    for (const param of spec.params) if (param.name in found.params) param.value = found.params[param.name];
    return Object.assign(spec, { datasets: { strip: found.rows }, height: found.height });
  };
  const draw = (plot) => {
    if (!drawn.has(plot)) drawn.set(plot, embed(plot));
    return drawn.get(plot);
  };
  const embed = async (plot) => {
    const spec = specOf(plot.dataset.chart);
    const narrow = spec.params?.find((param) => param.name === "narrow");
    if (narrow) narrow.value = plot.clientWidth < NARROW;
    const options = { actions: false, renderer: "svg", ast: true, config, defaultStyle: true };
    const { view } = await vegaEmbed(plot, spec, options);
    const svg = plot.querySelector("svg");
    svg.setAttribute("aria-label", plot.getAttribute("aria-label"));
    svg.setAttribute("role", "group");
    if (narrow) {
      new ResizeObserver(() => {
        const now = plot.clientWidth > 0 && plot.clientWidth < NARROW;
        if (plot.clientWidth && view.signal("narrow") !== now) view.signal("narrow", now).runAsync();
      }).observe(plot);
    }
    wordSliders(plot, spec);
    walk(plot);
    return view;
  };
  // A slider over positions says what is there, and can move by itself.
  const wordSliders = (plot, spec) => {
    for (const [name, words] of Object.entries(spec.usermeta?.words || {})) {
      const input = plot.querySelector(`input[name="${name}"]`);
      const shown = document.createElement("output");
      const say = () => {
        shown.textContent = words[input.value];
        input.setAttribute("aria-valuetext", words[input.value]);
      };
      input.parentElement.querySelectorAll("span:not(.vega-bind-name)").forEach((span) => span.remove());
      input.after(shown);
      input.addEventListener("input", say);
      say();
      if (spec.usermeta.play === name && !still.matches) play(input);
    }
  };
  const play = (input) => {
    const button = document.createElement("button");
    button.type = "button";
    let timer = 0;
    const show = () => { button.textContent = timer ? "Pause" : "Play"; };
    const stop = () => { clearInterval(timer); timer = 0; show(); };
    const move = (value) => {
      input.value = value;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(input.value) >= Number(input.max)) move(input.min);
      timer = setInterval(() => {
        if (Number(input.value) >= Number(input.max)) stop(); else move(Number(input.value) + 1);
      }, 150);
      return show();
    });
    input.addEventListener("pointerdown", () => timer && stop());
    show();
    input.closest(".vega-bind").append(button);
  };
  // Marks with a link are reached by one Tab and then by arrow keys.
  const walk = (plot) => {
    const marks = all("path[aria-label]", plot).filter((mark) => mark.__data__?.datum?.href);
    marks.forEach((mark, i) => {
      mark.setAttribute("tabindex", i ? "-1" : "0");
      mark.setAttribute("role", "link");
      mark.removeAttribute("aria-roledescription");
      mark.addEventListener("click", () => { location.hash = mark.__data__.datum.href; });
      mark.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
        if (event.key === "Enter") location.hash = mark.__data__.datum.href;
        if (!step) return;
        event.preventDefault();
        const next = marks[(i + step + marks.length) % marks.length];
        mark.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  };
  const plots = all(".plot");
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { near.unobserve(target); draw(target); }
    }
  }, { rootMargin: "600px" });
  plots.forEach((plot) => near.observe(plot));

  // ------------------------------------------------------------------ claims
  all("details.more").forEach((details) => details.addEventListener("toggle", () => {
    const place = details.querySelector(".copy:empty");
    const figure = place && byId(place.dataset.copy);
    if (!figure || !details.open) return;
    const picture = figure.querySelector("picture").cloneNode(true);
    const frame = document.createElement("div");
    frame.className = "frame";
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "Figure");
    frame.append(picture);
    place.append(frame);
  }));
  const reveal = () => {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch {
      return; // not a name that this page made
    }
    const target = byId(name);
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const details = target.matches(".claim, .part") && target.querySelector(":scope > details.more");
    if (details) details.open = true;
    if (details) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();

  for (const command of all("code.command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch { // no right to the clipboard: the reader copies the selection
        getSelection().selectAllChildren(command);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    command.after(button);
  }

  // ------------------------------------------------------------------ printing
  let opened = [];
  const unfold = () => {
    opened = all("details:not([open])");
    opened.forEach((details) => { details.open = true; });
  };
  const fold = () => { opened.forEach((details) => { details.open = false; }); opened = []; };
  const prepare = async () => {
    unfold();
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    await Promise.all(plots.map(draw));
  };
  addEventListener("beforeprint", () => { if (!opened.length) unfold(); });
  addEventListener("afterprint", fold);
  const print = async () => { await prepare(); window.print(); };
  byId("print").addEventListener("click", print);
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "p") { event.preventDefault(); print(); }
  });
})();
