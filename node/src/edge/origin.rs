//! Is this request meant for this node? `Host` and `Origin` against DNS rebinding and foreign web pages.
//!
//! A web page of another site can make a browser send requests here, and with a name of its own that resolves to
//! 127.0.0.1 it can even read the answers. So `Host` must be a name this node goes by, and `Origin`, where a
//! browser sends one, must be the node's own or listed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header, uri::Authority};
use troupe_protocol::error::Code;

use super::problem::{ApiError, ApiResult};

/// The names this node answers to and the origins that may call it.
#[derive(Debug, Clone)]
pub struct Neighbourhood {
    listen: SocketAddr,
    /// As clients write it in `Host`.
    listen_in_words: String,
    hosts_allowed: Vec<String>,
    origins_allowed: Vec<String>,
}

impl Neighbourhood {
    /// As configured.
    pub fn new(listen: SocketAddr, hosts_allowed: &[String], origins_allowed: &[String]) -> Self {
        let lower = |texts: &[String]| -> Vec<String> {
            texts
                .iter()
                .map(|text| text.trim_end_matches('/').to_ascii_lowercase())
                .collect()
        };
        Self {
            listen,
            listen_in_words: listen.to_string(),
            hosts_allowed: lower(hosts_allowed),
            origins_allowed: lower(origins_allowed),
        }
    }

    /// Lets a request pass or says which header is foreign.
    ///
    /// # Errors
    /// `ForeignOrigin` (403).
    pub fn check(&self, headers: &HeaderMap, uri: &Uri) -> ApiResult<()> {
        if self.is_plainly_ours(headers) {
            return Ok(());
        }
        let host = self.check_host(headers, uri)?;
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or("(unreadable)");
        if self.is_own_origin(origin, &host) {
            return Ok(());
        }
        let detail =
            format!("the Origin {origin:?} is foreign; allowed: the node's own, and edge.origins_allowed");
        Err(ApiError::new(Code::ForeignOrigin, detail))
    }

    /// Most requests: from programs, to the very address at which the node listens.
    fn is_plainly_ours(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let is_own = hosts
            .next()
            .is_some_and(|host| host == self.listen_in_words.as_str());
        is_own && hosts.next().is_none() && !headers.contains_key(header::ORIGIN)
    }

    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> ApiResult<String> {
        let foreign = |host: &str| {
            let detail = format!(
                "the Host {host:?} is foreign; allowed: {}, loopback names, and edge.hosts_allowed",
                self.listen
            );
            ApiError::new(Code::ForeignOrigin, detail)
        };
        let mut given = headers.get_all(header::HOST).iter();
        let host = match (given.next(), given.next(), uri.authority()) {
            (Some(host), None, _) => host
                .to_str()
                .map_err(|_| foreign("(unreadable)"))?
                .to_ascii_lowercase(),
            (None, _, Some(authority)) => authority.as_str().to_ascii_lowercase(),
            (None, _, None) => return Err(foreign("(none)")),
            (Some(_), Some(_), _) => return Err(foreign("(several)")),
        };
        let authority: Authority = host.parse().map_err(|_| foreign(&host))?;
        let is_ours = !host.contains('@') && self.goes_by(authority.host(), &host);
        if is_ours { Ok(host) } else { Err(foreign(&host)) }
    }

    /// `name` is the host without its port, `host` with it.
    fn goes_by(&self, name: &str, host: &str) -> bool {
        if name == "localhost"
            || self
                .hosts_allowed
                .iter()
                .any(|allowed| allowed == name || allowed == host)
        {
            return true;
        }
        // An address cannot be re-bound by a foreign name server, so every address we may listen on is ours.
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        address.is_some_and(|address| {
            address.is_loopback() || address == self.listen.ip() || self.listen.ip().is_unspecified()
        })
    }

    fn is_own_origin(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        let same_as_host = origin == format!("http://{host}") || origin == format!("https://{host}");
        same_as_host || self.origins_allowed.contains(&origin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(listen: &str, headers: &[(&'static str, &str)]) -> bool {
        let neighbourhood = Neighbourhood::new(
            listen.parse().unwrap(),
            &["Troupe.example.org".to_owned()],
            &["https://troupe.example.org/".to_owned()],
        );
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        neighbourhood.check(&headers, &Uri::from_static("/")).is_ok()
    }

    #[test]
    fn the_nodes_own_names_pass_and_foreign_ones_do_not() {
        let local = "127.0.0.1:7500";
        for own in [
            "127.0.0.1:7500",
            "localhost:7500",
            "LOCALHOST",
            "[::1]:7500",
            "troupe.example.org",
        ] {
            assert!(check(local, &[("host", own)]), "{own} was refused");
        }
        for foreign in [
            "evil.example",
            "127.0.0.1.evil.example",
            "192.168.1.7:7500",
            "a@localhost",
            "",
            "localhost.evil",
        ] {
            assert!(!check(local, &[("host", foreign)]), "{foreign:?} passed");
        }
        assert!(!check(local, &[]));
        assert!(check("0.0.0.0:7500", &[("host", "192.168.1.7:7500")]));
        assert!(!check("0.0.0.0:7500", &[("host", "evil.example")]));
    }

    #[test]
    fn an_origin_must_be_the_host_or_listed() {
        let local = "127.0.0.1:7500";
        let host = ("host", "localhost:7500");
        assert!(check(local, &[host, ("origin", "http://localhost:7500")]));
        assert!(check(local, &[host, ("origin", "https://troupe.example.org")]));
        for foreign in [
            "http://localhost:3000",
            "http://evil.example",
            "null",
            "http://localhost:7500.evil.example",
        ] {
            assert!(!check(local, &[host, ("origin", foreign)]), "{foreign:?} passed");
        }
    }
}
