// What was typed and not sent, kept in the browser for each conversation until it is sent.

const PREFIX = "troupe.draft.";

export function readDraft(conversation: string): string {
  try {
    return localStorage.getItem(PREFIX + conversation) ?? "";
  } catch {
    return "";
  }
}

export function keepDraft(conversation: string, text: string): void {
  try {
    if (text) localStorage.setItem(PREFIX + conversation, text);
    else localStorage.removeItem(PREFIX + conversation);
  } catch {
    // storage is off: drafts last as long as the page
  }
}

export function forgetDraft(conversation: string): void {
  keepDraft(conversation, "");
}

/** When somebody logs out, the next one at this browser must not find them. */
export function forgetAllDrafts(): void {
  try {
    for (const key of Object.keys(localStorage)) if (key.startsWith(PREFIX)) localStorage.removeItem(key);
  } catch {
    // nothing was kept
  }
}
