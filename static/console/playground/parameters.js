// The form of parameters: what goes with each message. A field that says what leaving it out means is left out.
const NUM_ALTERNATIVES = 5;
const MAX_STOPS = 4;

export class Parameters {
  constructor(form, { kept, changed }) {
    this.form = form;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      this.show();
      changed();
    });
    form.querySelector("[data-reset]").addEventListener("click", () => {
      form.reset();
      this.show();
      changed();
    });
    if (kept) this.restore(kept);
    this.show();
  }

  // The fields of a request beside model and messages; null, and the browser says why, where one cannot be.
  read() {
    if (!this.form.checkValidity()) {
      this.form.querySelector("details").open = true;
      this.form.reportValidity();
      return null;
    }
    const fields = {};
    for (const input of this.form.querySelectorAll("[data-field]")) {
      const { field, default: meaning } = input.dataset;
      if (input.type === "checkbox") input.checked && (fields[field] = true);
      else if (input.value !== "" && input.value !== meaning) fields[field] = Number(input.value);
    }
    const stops = this.form.querySelector("[data-stop-texts]").value.split("\n").filter(Boolean).slice(0, MAX_STOPS);
    if (stops.length) fields.stop = stops;
    if (this.form.querySelector("[data-logprobs]").checked) Object.assign(fields, { logprobs: true, top_logprobs: NUM_ALTERNATIVES });
    return fields;
  }

  get system() {
    return this.form.querySelector("[data-system]").value.trim();
  }

  show() {
    for (const output of this.form.querySelectorAll("output")) output.value = this.form.querySelector(`#${output.htmlFor[0]}`).value;
  }

  save() {
    return Object.fromEntries([...this.form.elements].filter((one) => one.id).map((one) => [one.id, one.type === "checkbox" ? one.checked : one.value]));
  }

  restore(kept) {
    for (const input of this.form.elements) {
      if (!(input.id in kept)) continue;
      if (input.type === "checkbox") input.checked = kept[input.id];
      else input.value = kept[input.id];
    }
  }
}
