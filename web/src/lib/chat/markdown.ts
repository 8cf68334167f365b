// Markdown to safe HTML, block by block, so that a growing answer redraws only its last block.
import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true, typographer: false });
const rules = markdown.renderer.rules;

const codeBlock = (code: string): string =>
  `<div class="code-block"><pre tabindex="0"><code>${markdown.utils.escapeHtml(code)}</code></pre><button type="button" class="btn btn-small code-copy" data-copy>Copy</button></div>`;
rules.fence = (tokens, index) => codeBlock(tokens[index]?.content ?? "");
rules.code_block = rules.fence;
rules.table_open = () => '<div class="table-scroll" tabindex="0" role="group" aria-label="Table"><table>';
rules.table_close = () => "</table></div>";
// A picture from elsewhere would tell its host who reads what: it becomes a link.
rules.image = (tokens, index) => {
  const token = tokens[index];
  const source = markdown.utils.escapeHtml(String(token?.attrGet("src") ?? ""));
  return `<a href="${source}">${markdown.utils.escapeHtml(token?.content || "picture")}</a>`;
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** The HTML of each top-level block. */
export function render(text: string): string[] {
  const environment = {};
  const tokens = markdown.parse(text, environment);
  const blocks: string[] = [];
  let start = 0;
  let depth = 0;
  tokens.forEach((token, index) => {
    depth += token.nesting;
    if (depth !== 0) return;
    const html = markdown.renderer.render(tokens.slice(start, index + 1), markdown.options, environment);
    blocks.push(DOMPurify.sanitize(html, { USE_PROFILES: { html: true }, ADD_ATTR: ["target"] }));
    start = index + 1;
  });
  return blocks;
}
