// Runs before the first paint, so that a chosen theme never flashes. Without a choice the system's applies (CSS light-dark()).
(function () {
  try {
    var theme = localStorage.getItem("troupe.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (_) {
    // storage is off: the system's theme it is
  }
})();
