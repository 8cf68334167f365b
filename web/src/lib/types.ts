// The wire as TypeScript. Provisional until protocol/ exports it.

export type Page<T> = { items: T[]; next_cursor?: string | null; total: number };
export type Problem = {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  instance?: string;
  correlation_id?: string;
};

export type Role = "admin" | "operator" | "user";
export type Me = { name: string; role: Role; node_id: string; version: string };

// ---- node
export type Severity = "info" | "warning" | "error";
export type Warning = { code: string; severity: Severity; text: string; subject: string };
export type StatusCounts = { total: number; online: number; degraded: number; offline: number; testing: number; disabled: number };
export type ModelState = "loading" | "ready" | "missing" | "absent" | "failed";
export type NodeStatus = {
  node_id: string;
  version: string;
  uptime_ms: number;
  ready: boolean;
  model: { state: ModelState; detail: string };
  planner: string;
  servers: StatusCounts;
  actors: { total: number; busy: number; suspended: number; restarting: number; restarts: number; messages_waiting: number };
  calls_in_flight: number;
  dead_letters: number;
  warnings: Warning[];
};

// ---- servers
export type HealthStatus = "online" | "degraded" | "offline" | "testing" | "disabled";
export type ServerSummary = {
  name: string;
  title: string;
  description: string;
  version: string;
  transport: string | null;
  endpoint: string | null;
  era: string | null;
  capabilities: string[];
  tools_count: number | null;
  enabled: boolean;
  status: HealthStatus;
  latency_ms: number | null;
  uptime_24h: number | null;
  last_active: string | null;
  last_error: string | null;
  labels: string[];
  owner: string;
};
export type HealthReport = {
  status: HealthStatus;
  since: string | null;
  latency_ms: number | null;
  uptime_24h: number | null;
  last_probe: string | null;
  last_active: string | null;
  last_error: string | null;
  last_error_code: string | null;
  last_error_at: string | null;
  failures_in_a_row: number;
  era: string | null;
  protocol_version: string | null;
  implementation: string | null;
  capabilities: string[];
  tools_count: number | null;
};
export type LatencyPoint = { at: string; latency_ms: number | null };
export type UptimeSlot = {
  at: string;
  uptime: number;
  latency_avg_ms: number | null;
  latency_p95_ms: number | null;
  probes_ok: number;
  probes_failed: number;
};
export type HealthHistory = { latency: LatencyPoint[]; slots: UptimeSlot[] };
export type Transport =
  | { type: "stdio"; command: string; args: string[]; cwd?: string; env: Record<string, string> }
  | { type: "streamable_http"; url: string; headers: Record<string, string> };
export type Operation = { enabled: boolean; transport?: Transport; labels: string[]; owner: string; call_timeout_ms?: number };
export type ServerDetail = ServerSummary & {
  manifest: unknown;
  operation: Operation;
  official: unknown;
  versions: string[];
  revision: number;
  created_at: string;
  updated_at: string;
  health: HealthReport;
  history: HealthHistory;
};
export type NewServer = {
  name?: string;
  title?: string;
  description?: string;
  url?: string;
  headers?: Record<string, string>;
  command?: string;
  args?: string[];
  cwd?: string;
  env?: Record<string, string>;
  manifest?: unknown;
  enabled?: boolean;
  labels?: string[];
  call_timeout_ms?: number;
};
export type ServerPatch = Omit<NewServer, "name" | "headers" | "env"> & {
  headers?: Record<string, string | null>;
  env?: Record<string, string | null>;
  owner?: string;
};
export type TestReport = {
  ok: boolean;
  era: string | null;
  protocol_version: string | null;
  server_info: string | null;
  tools_count: number | null;
  latency_ms: number | null;
  error: string | null;
  error_code: string | null;
  log_tail: string[];
};
export type ImportReport = {
  imported: number;
  skipped: number;
  rejected: { index: number; name: string; reason: string }[];
  notes: { index: number; name: string; note: string }[];
  names: string[];
};
export type LogLine = { at: string; stream: string; text: string };
export type CallAnswer = { result: unknown; correlation_id: string | null; duration_ms: number };

// ---- conversations
export type Candidate = { server: string; tool: string; score: number; lexical_score: number; dense_score: number | null; confidence: number };
export type Decision = "call" | "ask" | "offer_nearest" | "nothing";
export type Route = {
  server: string;
  tool: string;
  arguments: unknown;
  confidence: number;
  decision: Decision;
  candidates: Candidate[];
  planner: string;
  sources: { argument: string; found: string }[];
  why: string;
};
export type TurnStatus = "routing" | "calling" | "answered" | "argument_needed" | "nothing_fits" | "failed" | "cancelled";
export type ToolCall = { server: string; tool: string; arguments: unknown; result: unknown; failed: boolean; duration_ms: number | null };
export type Turn = {
  id: string;
  correlation_id: string;
  at: string;
  question: string;
  answer: string;
  status: TurnStatus;
  route: Route | null;
  calls: ToolCall[];
  duration_ms: number | null;
  problem: Problem | null;
};
export type ConversationSummary = { id: string; title: string; pinned: boolean; created_at: string; updated_at: string; turns: number };
export type Conversation = ConversationSummary & { history: Turn[] };
export type ConversationEvent =
  | { event: "turn_started"; turn: Turn }
  | { event: "turn_changed"; turn: Turn }
  | { event: "answer_chunk"; turn_id: string; offset: number; text: string }
  | { event: "turn_ended"; turn: Turn }
  | { event: "summary_changed"; summary: ConversationSummary }
  | { event: "deleted" };

// ---- observation
export type ActorStatus = "starting" | "idle" | "busy" | "suspended" | "draining" | "restarting" | "stopped";
export type ExitReason =
  | { kind: "normal" }
  | { kind: "shutdown" }
  | { kind: "killed" }
  | { kind: "failed"; error: string }
  | { kind: "panicked"; error: string }
  | { kind: "start_failed"; error: string }
  | { kind: "restart_intensity_exceeded"; child: string; reason: ExitReason };
export type Latency = { count: number; p50_us: number; p95_us: number; p99_us: number; max_us: number };
export type HistogramBar = { up_to_us: number; count: number };
export type ActorReport = {
  id: number;
  path: string;
  kind: string;
  supervisor: boolean;
  status: ActorStatus;
  current: { message: string; since_ms: number } | null;
  mailbox_depth: number;
  mailbox_messages_max: number;
  oldest_waiting_ms: number | null;
  handled: number;
  overloaded: number;
  failed: number;
  waiting: Latency;
  handling: Latency;
  restarts: number;
  last_error: { at: string; message: string; error: string } | null;
  last_exit: ExitReason | null;
  started_at: string;
  tasks: number;
};
export type Snapshot =
  | { answer: "alive"; state: unknown }
  | { answer: "timeout"; state: unknown }
  | { answer: "post_mortem"; state: unknown };
export type ActorDetail = {
  report: ActorReport;
  snapshot: Snapshot;
  waiting_histogram: HistogramBar[];
  handling_histogram: HistogramBar[];
  exits: { at: string; reason: ExitReason }[];
  recent: { message: string; at: string; waited_us: number; handled_us: number; correlation_id: string | null }[];
  parent: string | null;
  children: string[];
};
export type ActorTree = ActorReport & { children: ActorTree[] };
export type ActorCommand = "restart" | "suspend" | "resume" | "drain" | "kill";
export type DeadLetter = { at: string; actor: string; message: string; reason: string; correlation_id: string | null };
export type DeadLetters = { total: number; items: DeadLetter[] };
export type Outcome =
  | { kind: "running" }
  | { kind: "done" }
  | { kind: "failed"; error: string }
  | { kind: "panicked"; error: string }
  | { kind: "cancelled" }
  | { kind: "expired" };
export type Span = {
  span: string;
  parent: string | null;
  actor: string;
  kind: string;
  message: string;
  queued_at: string;
  waited_us: number;
  handled_us: number;
  outcome: Outcome;
};
export type SpanTree = Span & { children: SpanTree[] };
export type Trace = { correlation_id: string; started_at: string; duration_us: number; roots: SpanTree[]; spans_dropped: number };
export type TraceSummary = { correlation_id: string; title: string; started_at: string; duration_us: number; spans: number; failed: boolean };
export type CallInFlight = {
  id: string;
  server: string;
  method: string;
  target: string | null;
  principal: string;
  started_at: string;
  elapsed_ms: number;
  correlation_id: string | null;
};

// ---- administration
export type KeyInfo = { id: string; name: string; role: Role; hint: string; created_at: string; created_by: string; last_used_at?: string };
export type CreatedKey = KeyInfo & { key: string };
export type SecretInfo = { name: string; created_at: string; updated_at: string };
export type AuditEvent = {
  id: string;
  at: string;
  principal: string;
  role: Role;
  action: string;
  subject: string;
  outcome: "succeeded" | "refused" | "failed";
  correlation_id?: string;
  detail?: string;
};

// ---- live
export type LiveEvent =
  | { topic: "server"; server: ServerSummary }
  | { topic: "server_removed"; name: string }
  | { topic: "actors"; reports: ActorReport[] }
  | { topic: "flow"; event: unknown }
  | ({ topic: "conversation"; conversation_id: string } & ConversationEvent)
  | { topic: "status"; status: NodeStatus }
  | { topic: "lagged"; events: number }
  | { topic: "refused"; detail: string };
