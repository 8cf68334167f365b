// The node's HTTP API as typed calls. Knows paths and errors; holds no state. The session is an HttpOnly cookie,
// so there is no credential here to keep.
import type { Problem } from "./types";

/** An answer that was not a success; the message is the node's own explanation. */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code?: string,
    readonly correlationId?: string,
    readonly type?: string,
  ) {
    super(message);
    this.name = "ProblemError";
  }
}

export type Query = Record<string, string | number | boolean | null | undefined>;
export type CallOptions = { signal?: AbortSignal };

type Listener = () => void;
let onUnauthorized: Listener = () => {};

/** Called whenever the node says that the session is over. */
export function whenUnauthorized(listener: Listener): void {
  onUnauthorized = listener;
}

export function get<T>(path: string, query?: Query, options?: CallOptions): Promise<T> {
  return call<T>("GET", withQuery(path, query), undefined, options);
}
export function post<T>(path: string, body: unknown = {}, options?: CallOptions): Promise<T> {
  return call<T>("POST", path, body, options);
}
export function put<T>(path: string, body: unknown, options?: CallOptions): Promise<T> {
  return call<T>("PUT", path, body, options);
}
export function patch<T>(path: string, body: unknown, options?: CallOptions): Promise<T> {
  return call<T>("PATCH", path, body, options);
}
export function del<T>(path: string, options?: CallOptions): Promise<T> {
  return call<T>("DELETE", path, undefined, options);
}

/** A path whose parts are escaped: path`/servers/${name}`. */
export function path(parts: TemplateStringsArray, ...values: string[]): string {
  return String.raw({ raw: parts }, ...values.map(encodeURIComponent));
}

export function withQuery(path: string, query?: Query): string {
  if (!query) return path;
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value != null && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

async function call<T>(method: string, path: string, body: unknown, options?: CallOptions): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: options?.signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new ProblemError(0, "the node does not answer; is it running?");
  }
  if (!response.ok) throw await problem(response, path);
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

async function problem(response: Response, path: string): Promise<ProblemError> {
  if (response.status === 401 && path !== "/login") onUnauthorized();
  const correlationId = response.headers.get("x-correlation-id") ?? undefined;
  try {
    const body = (await response.json()) as Partial<Problem>;
    const message = body.detail || body.title || response.statusText;
    return new ProblemError(response.status, message, body.code, body.correlation_id ?? correlationId, body.type);
  } catch {
    return new ProblemError(response.status, `${response.status} ${response.statusText}`.trim(), undefined, correlationId);
  }
}

/** Whether the error only says that we ourselves stopped waiting. */
export function wasAborted(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
