// Pages poll small fragments: not while nobody looks, a dialog in them is open, or the server does not answer.
import { isOnline } from "./contact.js";

document.addEventListener("htmx:beforeRequest", (event) => {
  const isPoll = event.detail.requestConfig?.triggeringEvent === undefined && event.detail.elt.hasAttribute("data-poll");
  if (isPoll && (document.hidden || !isOnline() || event.detail.elt.querySelector("dialog[open]"))) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const answer = event.detail.xhr;
  // A form that is refused comes back with its errors, so it is shown although its status is 422.
  if (answer.status === 422) event.detail.shouldSwap = true;
});
