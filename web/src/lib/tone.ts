// Which colour a status has. Pure; the only place that decides it.

export type Tone = "ok" | "warn" | "bad" | "probe" | "idle" | "accent";

const BY_STATUS: Record<string, Tone> = {
  online: "ok",
  up: "ok",
  idle: "ok",
  ready: "ok",
  done: "ok",
  answered: "ok",
  success: "ok",
  ok: "ok",
  alive: "ok",
  busy: "accent",
  running: "accent",
  calling: "accent",
  routing: "accent",
  degraded: "warn",
  suspended: "warn",
  draining: "warn",
  expired: "warn",
  overloaded: "warn",
  warning: "warn",
  timeout: "warn",
  argument_needed: "warn",
  nothing_fits: "warn",
  offline: "bad",
  down: "bad",
  failed: "bad",
  panicked: "bad",
  restarting: "bad",
  critical: "bad",
  error: "bad",
  denied: "bad",
  refused: "warn",
  unknown: "warn",
  succeeded: "ok",
  unhandled: "bad",
  post_mortem: "bad",
  testing: "probe",
  connecting: "probe",
  loading: "probe",
  starting: "probe",
};

export function toneOf(status: string): Tone {
  return BY_STATUS[status] ?? "idle";
}

export const TONES: Record<Tone, { text: string; soft: string; fill: string }> = {
  ok: { text: "text-ok", soft: "bg-ok-soft", fill: "var(--color-ok)" },
  warn: { text: "text-warn", soft: "bg-warn-soft", fill: "var(--color-warn)" },
  bad: { text: "text-bad", soft: "bg-bad-soft", fill: "var(--color-bad)" },
  probe: { text: "text-probe", soft: "bg-probe-soft", fill: "var(--color-probe)" },
  accent: { text: "text-accent", soft: "bg-accent-soft", fill: "var(--color-accent)" },
  idle: { text: "text-idle", soft: "bg-raised", fill: "var(--color-idle)" },
};
