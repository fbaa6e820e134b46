// The playground.
import "../components.js";
import "../playground/main.js";
import "../start.js";

export { rendered } from "../playground/markdown.js"; // for the tests, which look at what hostile texts become
