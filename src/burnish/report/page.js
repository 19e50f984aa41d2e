// Figures follow the page: light or dark as the system is, light on paper. Buttons choose the
// runtime that figures and tables show, and open the rows of a table.
(function () {
  var figures = window.Plotly ? Array.from(document.querySelectorAll(".plotly-graph-div")) : [];
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function paint(onPaper) {
    var night = dark.matches && !onPaper;
    figures.forEach(function (figure) {
      Plotly.relayout(figure, {
        "font.color": night ? "#e8eaed" : "#1b1f24",
        "xaxis.tickcolor": night ? "#6b7480" : "#9aa2ab",
        "yaxis.tickcolor": night ? "#6b7480" : "#9aa2ab",
        "hoverlabel.bgcolor": night ? "#262c34" : "#ffffff",
        "hoverlabel.font.color": night ? "#e8eaed" : "#1b1f24"
      });
    });
  }
  paint(false);
  dark.addEventListener("change", function () { paint(false); });
  window.addEventListener("beforeprint", function () { paint(true); });
  window.addEventListener("afterprint", function () { paint(false); });

  function show(which) {
    document.querySelectorAll("[data-of]").forEach(function (one) {
      one.hidden = one.dataset.of !== which;
    });
    document.querySelectorAll("[data-show]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.show === which));
    });
    figures.forEach(function (figure) {
      var of = figure.data.map(function (trace) { return trace.meta; });
      if (of.every(function (meta) { return meta === undefined; })) { return; }
      Plotly.restyle(figure, {
        visible: of.map(function (meta) { return meta === undefined || String(meta) === which; })
      });
    });
  }
  document.querySelectorAll("[data-show]").forEach(function (button) {
    button.addEventListener("click", function () { show(button.dataset.show); });
  });

  function close(table, number) {
    table.querySelectorAll('[data-up="' + number + '"]').forEach(function (row) {
      row.hidden = true;
      var inner = row.querySelector(".fold");
      if (inner) {
        inner.setAttribute("aria-expanded", "false");
        close(table, row.dataset.row);
      }
    });
  }
  document.querySelectorAll(".fold").forEach(function (button) {
    button.addEventListener("click", function () {
      var row = button.closest("tr"), table = button.closest("table");
      var open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      if (!open) { close(table, row.dataset.row); return; }
      table.querySelectorAll('[data-up="' + row.dataset.row + '"]').forEach(function (one) {
        one.hidden = false;
      });
    });
  });
})();
