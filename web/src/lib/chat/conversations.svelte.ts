// The list of one's conversations, and the one that is open: read over HTTP, kept current over the live connection.
import { del, get, patch, path, post } from "$lib/api";
import { live } from "$lib/live.svelte";
import { poll } from "$lib/poll";
import type { Conversation, ConversationSummary, LiveEvent, Page, Turn } from "$lib/types";
import { forgetDraft } from "./drafts";
import { applyEvent, isFinal, mergeHistory, openTurn } from "./turns";

const POLL_MS = 1_500;

class ConversationList {
  items = $state.raw<ConversationSummary[]>([]);
  loaded = $state(false);
  error = $state.raw<Error | null>(null);

  async load(): Promise<void> {
    try {
      this.items = (await get<Page<ConversationSummary>>("/conversations", { limit: 500 })).items;
      this.error = null;
    } catch (error) {
      this.error = error as Error;
    } finally {
      this.loaded = true;
    }
  }

  async create(): Promise<ConversationSummary> {
    const created = await post<ConversationSummary>("/conversations");
    this.put(created);
    return created;
  }

  async change(id: string, change: { title?: string; pinned?: boolean }): Promise<void> {
    await patch(path`/conversations/${id}`, change);
    this.items = this.items.map((item) => (item.id === id ? { ...item, ...change } : item));
  }

  async remove(id: string): Promise<void> {
    await del(path`/conversations/${id}`);
    this.drop(id);
  }

  put(summary: ConversationSummary): void {
    const others = this.items.filter((item) => item.id !== summary.id);
    this.items = [summary, ...others];
  }

  drop(id: string): void {
    forgetDraft(id);
    this.items = this.items.filter((item) => item.id !== id);
  }
}

export const conversations = new ConversationList();

export class OpenConversation {
  turns = $state.raw<Turn[]>([]);
  loaded = $state(false);
  error = $state.raw<Error | null>(null);
  deleted = $state(false);
  /** What to say aloud, once an answer is complete. */
  announcement = $state("");
  /** A message on its way that is not yet a turn. */
  sending = $state<string | null>(null);

  readonly open = $derived(openTurn(this.turns));

  constructor(readonly id: string) {}

  /** Reads and listens until the returned function is called. */
  watch(): () => void {
    const unhear = live.on(`conversations/${this.id}`, (event) => this.#hear(event), () => void this.#read());
    const fallBack = poll(POLL_MS, () => live.lost && (this.open || this.sending !== null) && void this.#read());
    void this.#read();
    return () => {
      unhear();
      fallBack();
    };
  }

  async say(text: string): Promise<void> {
    this.sending = text;
    try {
      await post(path`/conversations/${this.id}/messages`, { text });
    } catch (error) {
      this.sending = null;
      throw error;
    }
    // The wire normally tells first; reading makes up for a connection that is down.
    if (live.state !== "open") await this.#read();
  }

  async stop(): Promise<void> {
    await post(path`/conversations/${this.id}/cancel`);
    if (live.state !== "open") await this.#read();
  }

  async #read(): Promise<void> {
    try {
      const { history, ...summary } = await get<Conversation>(path`/conversations/${this.id}`);
      this.turns = mergeHistory(this.turns, history);
      if (history.length > 0) this.sending = null;
      conversations.put(summary);
      this.error = null;
    } catch (error) {
      this.error = error as Error;
    } finally {
      this.loaded = true;
    }
  }

  #hear(event: LiveEvent): void {
    if (event.topic !== "conversation") return;
    if (event.event === "summary_changed") conversations.put(event.summary);
    if (event.event === "deleted") {
      this.deleted = true;
      conversations.drop(this.id);
    }
    if (event.event === "turn_started") this.sending = null;
    const { turns, gap } = applyEvent(this.turns, event);
    this.turns = turns;
    if (gap) void this.#read();
    if (event.event === "turn_ended" && isFinal(event.turn.status)) {
      this.announcement = `Answer: ${event.turn.answer.slice(0, 300) || event.turn.status}`;
    }
  }
}
