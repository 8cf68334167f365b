//! nginx as a plain reverse proxy: what it costs to pass a call on without knowing what it is.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{
    process::{end_in_order, free_address},
    usage::descendants,
};
use crate::cli::error::CliError;

/// As many as the cores of the machine for which the bars were set.
const WORKERS: usize = 2;
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Where Debian has it, which is not in everybody's search path.
const ELSEWHERE: &str = "/usr/sbin/nginx";

/// A running nginx; it ends with this.
pub struct Nginx {
    pub url: String,
    /// Its processes, all of which are counted.
    pub pids: Vec<u32>,
    child: Child,
}

impl Nginx {
    /// Starts one in front of this address (`http://HOST:PORT/PATH`); nothing where nginx is not installed.
    pub async fn start(folder: &Path, upstream: &str) -> Result<Option<Self>, CliError> {
        let failed = |reason: String| CliError::Failed(format!("nginx: {reason}"));
        let authority = upstream
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'));
        let (authority, path) = authority.ok_or_else(|| failed(format!("{upstream} has no path")))?;
        let address = free_address().await?;
        let prefix = folder.join(format!("nginx-{}", address.port()));
        std::fs::create_dir_all(&prefix).map_err(|error| failed(error.to_string()))?;
        let configuration = prefix.join("nginx.conf");
        std::fs::write(&configuration, configured(address, authority, &prefix))
            .map_err(|error| failed(error.to_string()))?;
        let mut started = Err(std::io::ErrorKind::NotFound.into());
        for program in ["nginx", ELSEWHERE] {
            started = Command::new(program)
                .arg("-p")
                .arg(&prefix)
                .arg("-c")
                .arg(&configuration)
                .args(["-e", "stderr"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn();
            if started.is_ok() {
                break;
            }
        }
        let Ok(child) = started else { return Ok(None) };
        let pid = child.id().ok_or_else(|| failed("it ended at once".to_owned()))?;
        wait_for(address).await?;
        let pids = [vec![pid], descendants(pid)].concat();
        let url = format!("http://{address}/{path}");
        Ok(Some(Self { url, pids, child }))
    }

    /// Ends it with its workers, which a killed master would leave behind.
    pub async fn stop(mut self) {
        end_in_order(&mut self.child, READY_WITHIN).await;
    }
}

async fn wait_for(address: SocketAddr) -> Result<(), CliError> {
    let listening = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, listening)
        .await
        .map_err(|_| CliError::Failed("nginx does not listen; see what it said above".to_owned()))
}

/// A proxy and nothing else: no log, connections kept on both sides, answers buffered in memory only.
fn configured(address: SocketAddr, upstream: &str, prefix: &Path) -> String {
    let prefix = prefix.display();
    format!(
        "daemon off;
worker_processes {WORKERS};
pid {prefix}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 16m;
    client_body_temp_path {prefix}/client;
    proxy_temp_path {prefix}/proxy;
    proxy_max_temp_file_size 0;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    keepalive_requests 1000000000;
    upstream server {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_buffering on;
        }}
    }}
}}
"
    )
}
