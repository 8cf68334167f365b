//! A network of the test's own, which it may cut: namespaces of the kernel, one for each node, joined by a router.
//!
//! The test runs again as a child in namespaces of users, network and mounts that are its own, so that it needs no
//! privilege, nothing of it can reach the machine's network, and all of it is gone when it ends. There the test is on
//! the router and reaches every node, whatever is cut between them. Cutting is silent and has a direction, as when a
//! switch drops frames; the kernel needs nothing but policy routing for it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::parts;

/// Set in the child: where it says that it ran to the end.
const INSIDE: &str = "TROUPE_TEST_ISOLATED";

const NAMESPACES: [&str; 5] = ["--user", "--map-root-user", "--net", "--mount", "--"];

/// Runs the body of the test with this full name in namespaces of its own.
pub fn isolated(test: &str, body: impl Future<Output = ()>) {
    if let Some(ran) = std::env::var_os(INSIDE) {
        run("ip", "link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(body);
        std::fs::write(ran, "to its end").expect("the test's note");
        return;
    }
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(reason) = possible() {
        return parts::leave_out("network", &reason);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ran = folder.path().join("ran");
    let status = Command::new("unshare")
        .args(NAMESPACES)
        .arg(std::env::current_exe().expect("the test's binary"))
        .args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INSIDE, &ran)
        .status()
        .expect("unshare runs");
    assert!(
        status.success() && ran.exists(),
        "{test} failed in its own network"
    );
}

/// Whether this machine lets anybody make namespaces, and has what a network is made with.
fn possible() -> Result<(), String> {
    let tried = Command::new("unshare")
        .args(NAMESPACES)
        .args(["ip", "link"])
        .output();
    let tried = tried.map_err(|error| format!("unshare (util-linux): {error}"))?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    Err(format!(
        "no namespace of the test's own with a network in it: {}",
        said.trim()
    ))
}

/// Nodes 0, 1, 2…, each alone behind the router. Only within [`isolated`].
#[derive(Debug, Clone)]
pub struct Network {
    nodes: usize,
}

impl Network {
    /// A network for so many nodes, all of which reach each other.
    pub fn new(nodes: usize) -> Self {
        assert!(
            std::env::var_os(INSIDE).is_some(),
            "a network is made within `isolated` only"
        );
        run("mount", "-t tmpfs none /run");
        std::fs::create_dir_all("/run/netns").expect("a folder for the names of namespaces");
        for node in 0..nodes {
            let net = node + 1;
            run("ip", &format!("netns add n{node}"));
            run(
                "ip",
                &format!("link add r{node} type veth peer name eth0 netns n{node}"),
            );
            run("ip", &format!("addr add 10.77.{net}.1/24 dev r{node}"));
            run("ip", &format!("link set r{node} up"));
            run("ip", &format!("-n n{node} addr add 10.77.{net}.2/24 dev eth0"));
            run("ip", &format!("-n n{node} link set eth0 up"));
            run("ip", &format!("-n n{node} link set lo up"));
            run("ip", &format!("-n n{node} route add default via 10.77.{net}.1"));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the router may forward");
        Self { nodes }
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, octet(node + 1), 2))
    }

    /// The router's address that every node reaches, whatever is cut: for servers that the test runs.
    pub fn router(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 1, 1))
    }

    /// What runs a command as this node.
    pub fn runner(&self, node: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/n{node}")]
    }

    /// Nothing that `from` sends reaches `to` any more; the other direction stays.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        run("ip", &format!("rule add {}", self.between(from, to)));
    }

    /// Nothing passes between the two any more.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts a node off from all others. The test still reaches it.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                // as often as it was cut; the last attempt finds nothing
                while attempt("ip", &format!("rule del {}", self.between(from, to))).is_ok() {}
            }
        }
    }

    fn between(&self, from: usize, to: usize) -> String {
        format!("from {} to {} blackhole", self.address(from), self.address(to))
    }
}

/// A disk of this size at `folder`, empty. Only within [`isolated`]; gone with the test.
pub fn mount_disk(folder: &Path, size_kib: u64) {
    std::fs::create_dir_all(folder).expect("a folder");
    run(
        "mount",
        &format!("-t tmpfs -o size={size_kib}k none {}", folder.display()),
    );
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("at most 254 nodes")
}

fn run(program: &str, arguments: &str) {
    attempt(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments}: {error}"));
}

fn attempt(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
