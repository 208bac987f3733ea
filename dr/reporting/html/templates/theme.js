try {
  const kept = localStorage.getItem("dr-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch {
  // A browser may deny storage to files; the system's theme serves.
}
