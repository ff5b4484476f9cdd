// Figures that were not ready when the page was: they are fetched, put in their place and drawn.
(async () => {
  "use strict";
  const place = document.getElementById("figures");
  if (!place?.dataset.part) return;
  const answer = await fetch(place.dataset.part, { headers: { accept: "text/html" } });
  if (answer.redirected) {
    location.reload(); // to the sign-in page
    return;
  }
  place.removeAttribute("aria-busy");
  if (!answer.ok) {
    place.firstElementChild.textContent = "The figures could not be drawn. Load the page again to try once more.";
    return;
  }
  place.innerHTML = await answer.text();
  for (const name of ["vega.js", "charts.js"]) {
    const script = document.createElement("script");
    script.src = `/static/${name}`;
    script.async = false; // in this order
    document.body.append(script);
  }
})();
