// Short news at the page's edge. The server sends `HX-Trigger: {"toast": {"text": ..., "kind": "ok"}}` with a fragment.
document.addEventListener("alpine:init", () => {
  Alpine.data("toasts", () => ({
    init() {
      document.body.addEventListener("toast", (event) => this.add(event.detail));
      this.$root.querySelectorAll("[role=status]").forEach((toast) => this.leaveLater(toast));
    },

    add({ text, kind = "ok" }) {
      const toast = this.$refs.pattern.content.firstElementChild.cloneNode(true);
      toast.classList.add(kind);
      toast.querySelector("span").textContent = text;
      this.$root.append(toast);
      this.leaveLater(toast);
    },

    leaveLater(toast) {
      // Bad news stays until it is read.
      if (!toast.classList.contains("bad")) setTimeout(() => toast.remove(), 6000);
    },

    dismiss(event) {
      if (event.target.closest("button")) event.target.closest("[role=status]").remove();
    },
  }));
});
