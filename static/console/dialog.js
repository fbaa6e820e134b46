// A button and the native dialog that it opens: what a change will do is said before it is done.
document.addEventListener("alpine:init", () => {
  Alpine.data("dialog", () => ({
    init() {
      // A form that came back with errors is open from the start; its dialog has a name one tick later.
      if (this.$el.dataset.open) this.$nextTick(() => this.open());
    },

    open() {
      this.$refs.dialog.showModal();
    },

    close() {
      this.$refs.dialog.close();
    },

    closeOnBackdrop(event) {
      if (event.target === this.$refs.dialog) this.close();
    },
  }));
});
