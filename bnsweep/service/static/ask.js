// Ctrl-Enter asks; empty fields stay out of the address, which is the question.
(() => {
  "use strict";
  const area = document.getElementById("sql");
  area?.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
  });
  for (const form of document.querySelectorAll("form[method=get]")) {
    form.addEventListener("submit", () => {
      for (const field of form.elements) {
        if (field.name && (field.value === "" || (field.name === "view" && field.value === "table"))) field.disabled = true;
      }
      setTimeout(() => { for (const field of form.elements) field.disabled = false; }, 0);
    });
  }
})();
