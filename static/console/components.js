// What every page of the console needs: components for Alpine (registered before it starts) and manners for htmx.
import "htmx.org";
import "./htmx.js";
import "./copy.js";
import "./dialog.js";
import "./drawer.js";
import "./palette.js";
import "./theme.js";
import "./toasts.js";
