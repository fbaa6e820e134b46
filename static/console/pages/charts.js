// Pages with charts: home and the panels.
import "../components.js";
import "../chart.js";
import "../panels.js";
import "../start.js";
