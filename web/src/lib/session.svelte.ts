// Who is logged in. The credential itself is an HttpOnly cookie and never seen here.
import { get, post, ProblemError, whenUnauthorized } from "./api";
import { forgetAllDrafts } from "./chat/drafts";
import { live } from "./live.svelte";
import type { Me, Role } from "./types";

const RANK: Record<Role, number> = { user: 0, operator: 1, admin: 2 };

class Session {
  me = $state<Me | null>(null);
  /** Whether the first look at `/me` is over. */
  known = $state(false);
  /** Why the node could not be asked, if it could not. */
  trouble = $state<string | null>(null);

  async load(): Promise<void> {
    try {
      this.#begin(await get<Me>("/me"));
      this.trouble = null;
    } catch (error) {
      if (!(error instanceof ProblemError && error.status === 401)) this.trouble = (error as Error).message;
    } finally {
      this.known = true;
    }
  }

  async login(credential: { code: string } | { key: string }): Promise<void> {
    this.#begin(await post<Me>("/login", credential));
    this.trouble = null;
    this.known = true;
  }

  async logout(): Promise<void> {
    await post("/logout");
    forgetAllDrafts();
    this.end();
  }

  end(): void {
    this.me = null;
    live.stop();
  }

  /** Whether the role permits what at least `needed` may do. */
  may(needed: Role): boolean {
    return this.me !== null && RANK[this.me.role] >= RANK[needed];
  }

  #begin(me: Me): void {
    this.me = me;
    live.start();
  }
}

export const session = new Session();
whenUnauthorized(() => session.end());
