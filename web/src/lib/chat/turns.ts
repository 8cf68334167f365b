// The turns of a conversation, kept up to date from what the live connection tells. Pure.
import type { ConversationEvent, Turn, TurnStatus } from "$lib/types";

export type Applied = {
  turns: Turn[];
  /** A piece of an answer is missing: the conversation must be read again. */
  gap: boolean;
};

export function applyEvent(turns: Turn[], event: ConversationEvent): Applied {
  switch (event.event) {
    case "turn_started":
    case "turn_changed":
      return { turns: put(turns, event.turn, keepLongerAnswer), gap: false };
    case "turn_ended":
      return { turns: put(turns, event.turn, (_, next) => next), gap: false };
    case "answer_chunk": {
      const turn = turns.find((turn) => turn.id === event.turn_id);
      if (!turn || event.offset > turn.answer.length) return { turns, gap: true };
      if (event.offset + event.text.length <= turn.answer.length) return { turns, gap: false }; // heard before
      const answer = turn.answer.slice(0, event.offset) + event.text;
      return { turns: turns.map((other) => (other === turn ? { ...turn, answer } : other)), gap: false };
    }
    default:
      return { turns, gap: false };
  }
}

/** Takes over a history that was read, without losing what arrived by wire while it was on its way. */
export function mergeHistory(turns: Turn[], history: Turn[]): Turn[] {
  const merged = history.map((read) => {
    const known = turns.find((turn) => turn.id === read.id);
    if (!known) return read;
    if (isFinal(known.status) && !isFinal(read.status)) return known;
    return keepLongerAnswer(known, read);
  });
  const lastRead = history.at(-1)?.id ?? "";
  return [...merged, ...turns.filter((turn) => turn.id > lastRead && !history.some((read) => read.id === turn.id))];
}

export function isFinal(status: TurnStatus): boolean {
  return status !== "routing" && status !== "calling";
}

/** The turn that is being answered, if any. */
export function openTurn(turns: Turn[]): Turn | undefined {
  return turns.findLast((turn) => !isFinal(turn.status));
}

function put(turns: Turn[], turn: Turn, choose: (known: Turn, next: Turn) => Turn): Turn[] {
  const index = turns.findIndex((known) => known.id === turn.id);
  if (index < 0) return [...turns, turn];
  return turns.with(index, choose(turns[index]!, turn));
}

function keepLongerAnswer(known: Turn, next: Turn): Turn {
  if (isFinal(next.status) || next.answer.length >= known.answer.length) return next;
  return { ...next, answer: known.answer };
}
