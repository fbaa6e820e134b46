// Day, night, or as the system says: kept in a cookie, so that the server renders the right one at once.
document.addEventListener("alpine:init", () => {
  Alpine.data("theme", () => ({
    chosen: document.documentElement.dataset.theme ?? "",

    choose(event) {
      this.chosen = event.currentTarget.value;
      const age = this.chosen ? 31536000 : 0;
      document.cookie = `theme=${this.chosen}; path=/; max-age=${age}; samesite=lax`;
      if (this.chosen) document.documentElement.dataset.theme = this.chosen;
      else delete document.documentElement.dataset.theme;
      document.dispatchEvent(new CustomEvent("theme-changed"));
    },

    pressed() {
      return String(this.chosen === this.$el.value);
    },
  }));
});
