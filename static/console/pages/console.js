// Pages of the console without charts.
import "../components.js";
import "../start.js";
