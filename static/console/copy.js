// Copies the text of another element (data-from: its id) or its own data-text, and says so for two seconds.
export async function toClipboard(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // Plain http on another host has no clipboard API; the old command still works there.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("the browser refused to copy");
}

document.addEventListener("alpine:init", () => {
  Alpine.data("copy", () => ({
    state: "ready",

    async copy() {
      const { from, text } = this.$root.dataset;
      const source = from ? document.getElementById(from) : null;
      try {
        await toClipboard(source ? (source.value ?? source.textContent) : text);
        this.state = "done";
      } catch {
        this.state = "failed";
      }
      setTimeout(() => (this.state = "ready"), 2000);
    },

    isReady() {
      return this.state === "ready";
    },
    isDone() {
      return this.state === "done";
    },
    hasFailed() {
      return this.state === "failed";
    },
  }));
});
