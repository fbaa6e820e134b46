// The rail on a phone: a drawer that the menu button opens; Escape, the scrim and following a link close it.
document.addEventListener("alpine:init", () => {
  Alpine.data("drawer", () => ({
    isOpen: false,

    toggle() {
      this.isOpen = !this.isOpen;
    },

    close() {
      this.isOpen = false;
    },

    openClass() {
      return this.isOpen ? "open" : "";
    },

    expanded() {
      return String(this.isOpen);
    },
  }));
});
