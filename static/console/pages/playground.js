// The playground.
import "../components.js";
import "../playground/main.js";
import "../start.js";
