// The one WebSocket of the page: topics in, events out. Reconnects by itself with back-off and subscribes again;
// a subscriber's `resumed` runs after each reconnection and whenever the node dropped events for us (we were too slow):
// what happened in between is gone and must be read again.
import { get } from "./api";
import { backoffMs } from "./backoff";
import type { LiveEvent } from "./types";

export type LiveState = "off" | "connecting" | "open" | "waiting";
type Subscriber = { event: (event: LiveEvent) => unknown; resumed?: () => void };

/** An attempt counts as good, and the back-off starts anew, once the connection has held for this long. */
const ATTEMPT_RESET_MS = 5_000;

class Live {
  state = $state<LiveState>("off");
  /** Whether events are being missed: set from the first failure until the connection is back. */
  lost = $state(false);
  #socket: WebSocket | null = null;
  #topics = new Map<string, Set<Subscriber>>();
  #attempt = 0;
  #everOpen = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #stable: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    if (this.state !== "off") return;
    this.#connect();
    addEventListener("online", this.#hurry);
    document.addEventListener("visibilitychange", this.#hurry);
  }

  stop(): void {
    removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
    clearTimeout(this.#retry);
    clearTimeout(this.#stable);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#attempt = 0;
    this.#everOpen = false;
    this.lost = false;
    this.state = "off";
  }

  /** Subscribes until the returned function is called. */
  on(topic: string, event: (event: LiveEvent) => unknown, resumed?: () => void): () => void {
    const subscriber: Subscriber = { event, resumed };
    let subscribers = this.#topics.get(topic);
    if (!subscribers) {
      subscribers = new Set();
      this.#topics.set(topic, subscribers);
      this.#send({ subscribe: [topic] });
    }
    subscribers.add(subscriber);
    return () => {
      subscribers.delete(subscriber);
      if (subscribers.size > 0 || this.#topics.get(topic) !== subscribers) return;
      this.#topics.delete(topic);
      this.#send({ unsubscribe: [topic] });
    };
  }

  #connect = (): void => {
    clearTimeout(this.#retry);
    this.state = "connecting";
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`);
    this.#socket = socket;
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = (message) => this.#received(message.data);
    socket.onclose = () => this.#closed(socket);
  };

  #opened(socket: WebSocket): void {
    if (socket !== this.#socket) return;
    this.state = "open";
    this.lost = false;
    this.#stable = setTimeout(() => (this.#attempt = 0), ATTEMPT_RESET_MS);
    if (this.#topics.size > 0) this.#send({ subscribe: [...this.#topics.keys()] });
    if (this.#everOpen) for (const subscriber of this.#everyone()) subscriber.resumed?.();
    this.#everOpen = true;
  }

  #received(data: unknown): void {
    if (typeof data !== "string") return;
    let event: LiveEvent;
    try {
      event = JSON.parse(data) as LiveEvent;
    } catch {
      return; // one unreadable event is not worth the connection
    }
    if (event.topic === "lagged") {
      for (const subscriber of this.#everyone()) subscriber.resumed?.();
      return;
    }
    const topic = subscriptionOf(event);
    if (topic === null) return;
    for (const subscriber of [...(this.#topics.get(topic) ?? [])]) subscriber.event(event);
  }

  #closed(socket: WebSocket): void {
    if (socket !== this.#socket) return;
    this.#socket = null;
    clearTimeout(this.#stable);
    // A refused handshake does not say why to a page: asking over HTTP does, and ends a session that is over.
    if (this.state === "connecting") void get("/me").catch(() => {});
    this.state = "waiting";
    this.lost = true;
    this.#retry = setTimeout(this.#connect, backoffMs(this.#attempt++));
  }

  #hurry = (): void => {
    if (this.state === "waiting" && document.visibilityState === "visible") this.#connect();
  };

  #send(message: { subscribe: string[] } | { unsubscribe: string[] }): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #everyone(): Subscriber[] {
    return [...this.#topics.values()].flatMap((subscribers) => [...subscribers]);
  }
}

/** The subscription that an event was sent for. */
function subscriptionOf(event: LiveEvent): string | null {
  switch (event.topic) {
    case "server":
    case "server_removed":
      return "servers";
    case "actors":
      return "actors";
    case "flow":
      return "events";
    case "status":
      return "status";
    case "conversation":
      return `conversations/${event.conversation_id}`;
    default:
      return null;
  }
}

export const live = new Live();
