// The last import of a page's bundle: its components listen for `alpine:init` by now.
import Alpine from "@alpinejs/csp";

window.Alpine = Alpine;
Alpine.start();
