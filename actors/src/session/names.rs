//! How the things of many servers are told apart on the aggregate endpoint.
//!
//! Tools and prompts are called `server__name`; resources keep their address behind a prefix,
//! `troupe://server/ORIGINAL-URI`, which is a URI (or a URI template) again. Names without a server belong to the
//! built-in server, so that `find_tools` and `call_tool` are called just that.
//!
//! A server's name has no `__` inside but may end in `_`, so `a___b` can be read in two ways. The rule: the longer name
//! of a registered server wins, whatever tools it has. A thing that its exposed name does not lead back to is
//! *shadowed*: it is left out of the lists, told in their `_meta`, and still reachable on its server's own endpoint.

/// What stands between a server's name and the name of its tool or prompt.
pub const SEPARATOR: &str = "__";

/// The URI scheme under which the resources of all servers are exposed.
pub const RESOURCE_SCHEME: &str = "troupe://";

/// The name under which a server's tool or prompt is exposed.
pub fn exposed_name(server: &str, name: &str) -> String {
    [server, SEPARATOR, name].concat()
}

/// The address under which a server's resource (or resource template) is exposed.
pub fn exposed_uri(server: &str, uri: &str) -> String {
    [RESOURCE_SCHEME, server, "/", uri].concat()
}

/// The server and its own name for what is exposed under this name: the longest name of a server that `is_server`
/// knows. Nothing where no server's name begins it.
pub fn split_name(exposed: &str, is_server: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let first = exposed.find(SEPARATOR)?;
    let split_at = |at: usize| Some((&exposed[..at], exposed[at..].strip_prefix(SEPARATOR)?));
    [split_at(first + 1), split_at(first)]
        .into_iter()
        .flatten()
        .find(|(server, name)| !server.is_empty() && !name.is_empty() && is_server(server))
}

/// The server and its own address for an exposed resource; nothing if it is not one.
pub fn split_uri(exposed: &str) -> Option<(&str, &str)> {
    let (server, uri) = exposed.strip_prefix(RESOURCE_SCHEME)?.split_once('/')?;
    (!server.is_empty() && !uri.is_empty()).then_some((server, uri))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_exposed_name_leads_back_to_its_server() {
        let known = |server: &str| matches!(server, "time" | "a" | "x" | "x_");
        assert_eq!(split_name("time__now", known), Some(("time", "now")));
        assert_eq!(split_name("a__c__d", known), Some(("a", "c__d")));
        assert_eq!(
            split_name("x___now", known),
            Some(("x_", "now")),
            "the longer server name wins"
        );
        assert_eq!(split_name("x__now", known), Some(("x", "now")));
        assert_eq!(split_name("a___now", known), Some(("a", "_now")));
        for foreign in [
            "find_tools",
            "nobody__now",
            "time__",
            "__now",
            "",
            "__",
            "zeit__jetzt",
            "é__ü",
        ] {
            assert_eq!(
                split_name(foreign, known),
                None,
                "{foreign:?} belongs to no server"
            );
        }
    }

    #[test]
    fn an_exposed_address_keeps_the_original_inside() {
        for uri in [
            "demo://resource/1",
            "file:///a/b?x=y#z",
            "demo://resource/{id}",
            "x",
        ] {
            assert_eq!(
                split_uri(&exposed_uri("everything", uri)),
                Some(("everything", uri))
            );
        }
        for foreign in [
            "demo://resource/1",
            "troupe://",
            "troupe://time",
            "troupe://time/",
            "troupe:///x",
            "",
        ] {
            assert_eq!(split_uri(foreign), None, "{foreign:?} names no server's resource");
        }
    }

    proptest! {
        #[test]
        fn splitting_undoes_joining(server in "[a-z0-9](_?[a-z0-9.-]){0,10}_?", name in "\\PC{1,20}") {
            let exposed = exposed_name(&server, &name);
            prop_assert_eq!(split_name(&exposed, |known| known == server), Some((&*server, &*name)));
        }

        #[test]
        fn any_text_is_split_without_a_panic(text in "\\PC*", server in "\\PC{0,3}") {
            let _ = split_name(&text, |known| known == server);
            let _ = split_uri(&text);
        }
    }
}
