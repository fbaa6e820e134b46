// Ctrl K: type a few letters of a page and press Enter.
document.addEventListener("alpine:init", () => {
  Alpine.data("palette", () => ({
    words: "",
    selected: 0,

    open() {
      this.words = "";
      this.selected = 0;
      this.$refs.dialog.showModal();
      this.show();
    },

    openByKeyboard(event) {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        this.open();
      }
    },

    closeOnBackdrop(event) {
      if (event.target === this.$refs.dialog) this.$refs.dialog.close();
    },

    typed() {
      this.selected = 0;
      this.show();
    },

    matching() {
      const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
      return [...this.$refs.list.querySelectorAll("a")].filter((link) => {
        const text = link.querySelector("span").textContent.toLowerCase();
        const matches = words.every((word) => text.includes(word));
        link.parentElement.hidden = !matches;
        return matches;
      });
    },

    show() {
      this.$refs.list.querySelectorAll("a").forEach((link) => link.removeAttribute("aria-current"));
      const links = this.matching();
      links[this.selected]?.setAttribute("aria-current", "true");
      links[this.selected]?.scrollIntoView({ block: "nearest" });
      this.$refs.none.hidden = links.length > 0;
    },

    move(event) {
      const steps = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const links = this.matching();
      if (steps && links.length) {
        event.preventDefault();
        this.selected = (this.selected + steps + links.length) % links.length;
        this.show();
      } else if (event.key === "Enter") {
        event.preventDefault();
        links[this.selected]?.click();
      }
    },
  }));
});
