// Django admin under the console's policy: what Unfold writes into attributes as code, as components for Alpine's
// CSP build. Its functions (searchForm, getCurrentTab) are globals of unfold/js/app.js, which runs before this file.
document.addEventListener("alpine:init", () => {
  const SIDEBAR = "adminSidebar";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  // The console's cookie and its words, so that the server renders the same theme everywhere.
  const COOKIE = { light: "day", dark: "night", auto: "" };
  const kept = ["light", "dark"].find((one) => root.classList.contains(one)) ?? "auto";

  Alpine.data("adminPage", () => ({
    openModal: false,
    filterOpen: false,
    openAllApplications: false,
    sidebarMobileOpen: false,
    sidebarDesktopOpen: localStorage.getItem(SIDEBAR) !== "closed",
    activeTab: "",
    adminTheme: kept,
    // A form's action is computed from these; the real `window` is out of an expression's reach.
    window: { location: { pathname: location.pathname, search: location.search } },

    init() {
      this.activeTab = window.getCurrentTab() || document.body.dataset.firstTab;
      system.addEventListener("change", () => this.show());
      this.show();
    },

    show() {
      const isDark = this.adminTheme === "dark" || (this.adminTheme === "auto" && system.matches);
      root.classList.toggle("dark", isDark);
    },

    switchTheme(theme) {
      this.adminTheme = theme;
      const age = COOKIE[theme] ? 31536000 : 0;
      document.cookie = `theme=${COOKIE[theme]}; path=/; max-age=${age}; samesite=lax`;
      this.show();
    },

    toggleSidebar() {
      this.sidebarDesktopOpen = !this.sidebarDesktopOpen;
      localStorage.setItem(SIDEBAR, this.sidebarDesktopOpen ? "open" : "closed");
    },

    toggleDrawer() {
      this.sidebarMobileOpen = !this.sidebarMobileOpen;
    },
  }));

  Alpine.data("searchForm", window.searchForm);
});
