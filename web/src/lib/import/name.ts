/** What a server may be called; also the prefix of its tools. */
export const SERVER_NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
