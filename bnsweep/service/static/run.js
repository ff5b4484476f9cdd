// Names of the BN sites, when somebody knows them: the numbers are there without.
(async () => {
  "use strict";
  const strip = document.getElementById("strip");
  const answer = await fetch(`/runs/${strip.dataset.run}/sites.json`);
  if (!answer.ok) return;
  const { sites } = await answer.json();
  strip.querySelectorAll("li").forEach((item, i) => {
    if (!sites[i]) return;
    item.title = `${sites[i]}: ${item.title}`;
    const name = document.createElement("small");
    for (const part of sites[i].match(/[^.]+\.?/g)) name.append(part, document.createElement("wbr")); // breaks at dots
    item.append(name);
  });
  strip.classList.toggle("named", sites.length > 0);
})();
