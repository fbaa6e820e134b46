// A finished answer as nodes. Whatever a model writes, only this short list of elements and attributes comes out of it:
// HTML is shown as the text that it is, pictures are their words (a picture's address could carry the chat away), and
// links lead to http, https and mailto alone.
import DOMPurify from "dompurify";
import { Marked } from "marked";

const ELEMENTS = ["a", "blockquote", "br", "code", "del", "em", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"];
const SANITIZER = {
  ALLOWED_TAGS: ELEMENTS,
  ALLOWED_ATTR: ["href", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const parser = new Marked({
  gfm: true,
  breaks: true, // models write verse and lists line by line
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ text }) => escaped(text),
    checkbox: ({ checked }) => (checked ? "[x] " : "[ ] "),
    heading({ tokens, depth }) {
      const name = `h${Math.min(6, depth + 3)}`; // the page has headings of its own above
      return `<${name}>${this.parser.parseInline(tokens)}</${name}>`;
    },
  },
});

export function rendered(text) {
  const fragment = DOMPurify.sanitize(parser.parse(text), SANITIZER);
  for (const bare of fragment.querySelectorAll("a:not([href])")) bare.replaceWith(...bare.childNodes);
  for (const link of fragment.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  for (const wide of fragment.querySelectorAll("pre, table")) wide.tabIndex = 0; // they scroll sideways
  return fragment;
}
