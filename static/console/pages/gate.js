// Pages before the console: no htmx, no charts.
import "../signed_out.js";
import "../theme.js";
import "../toasts.js";
import "../start.js";
