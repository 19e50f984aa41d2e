// The figure follows the page: light or dark as the system is, light on paper.
(function () {
  var box = document.getElementById("frontier");
  if (!box || !window.Plotly) { return; }
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function paint(onPaper) {
    var night = dark.matches && !onPaper;
    Plotly.relayout(box, {
      "font.color": night ? "#e8eaed" : "#1b1f24",
      "xaxis.tickcolor": night ? "#6b7480" : "#9aa2ab",
      "yaxis.tickcolor": night ? "#6b7480" : "#9aa2ab",
      "hoverlabel.bgcolor": night ? "#262c34" : "#ffffff",
      "hoverlabel.font.color": night ? "#e8eaed" : "#1b1f24"
    });
  }
  paint(false);
  dark.addEventListener("change", function () { paint(false); });
  window.addEventListener("beforeprint", function () { paint(true); });
  window.addEventListener("afterprint", function () { paint(false); });
})();
