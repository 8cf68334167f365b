//! Where settings come from: flags before environment before file before default.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use http::uri::Authority;
use secrecy::SecretString;
use toml::{Table, Value};

use super::{
    ClusterConfig, Config, ConfigError, EdgeConfig, ListenChoice, LogFilter, LogFormat, NameChoice,
    error::nearest,
};

/// Read when no file is named, if it is there.
const FILE_DEFAULT: &str = "cluster.toml";
const VARIABLE_PREFIX: &str = "TROUPE_";

/// What the command line says about settings.
#[derive(Debug, Default, Clone)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--cluster-listen`
    pub cluster_listen: Option<SocketAddr>,
    /// `--name`
    pub name: Option<String>,
    /// `--open`
    pub open: bool,
    /// `--log`
    pub log: Option<String>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}

/// The variables of this process that are text, as settings are.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The settings in force.
///
/// # Errors
/// Says which setting is wrong, where it stands and what is allowed.
pub fn load(
    flags: &Flags,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut config = match &flags.config {
        Some(file) => read(file)?,
        None if Path::new(FILE_DEFAULT).is_file() => read(Path::new(FILE_DEFAULT))?,
        None => Config::default(),
    };
    for (name, value) in environment {
        config = overlay_variable(config, &name, &value)?;
    }
    overlay_flags(&mut config, flags)?;
    check(&config)?;
    Ok(config)
}

fn read(file: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(file).map_err(|reason: io::Error| ConfigError::Unreadable {
        file: file.display().to_string(),
        reason: reason.to_string(),
    })?;
    parse(file, &text)
}

pub(super) fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::in_file(file, text, &error))
}

/// Sets `edge.listen` from `TROUPE_EDGE_LISTEN`, and so on for every setting. Other variables, such as the command
/// line's `TROUPE_DATA`, are left alone.
fn overlay_variable(config: Config, name: &str, value: &str) -> Result<Config, ConfigError> {
    if !name.starts_with(VARIABLE_PREFIX) {
        return Ok(config);
    }
    let wrong = |what: String| ConfigError::Environment {
        name: name.to_owned(),
        what,
    };
    let mut sections = Table::try_from(&config).map_err(|error| wrong(error.to_string()))?;
    if !sections
        .keys()
        .any(|section| name.starts_with(&variable_name(section, "")))
    {
        return Ok(config);
    }
    let Some(slot) = setting_slot(&mut sections, name) else {
        return Err(wrong(unknown_variable(&sections, name)));
    };
    *slot = typed_like(slot, value).map_err(wrong)?;
    sections
        .try_into()
        .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))
}

fn setting_slot<'a>(sections: &'a mut Table, name: &str) -> Option<&'a mut Value> {
    sections.iter_mut().find_map(|(section, settings)| {
        let settings = settings.as_table_mut()?;
        settings
            .iter_mut()
            .find(|(key, _)| variable_name(section, key) == name)
            .map(|(_, slot)| slot)
    })
}

fn variable_name(section: &str, key: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}_{}",
        section.to_uppercase(),
        key.to_uppercase()
    )
}

fn unknown_variable(sections: &Table, name: &str) -> String {
    let known: Vec<String> = sections
        .iter()
        .filter_map(|(section, settings)| Some((section, settings.as_table()?)))
        .flat_map(|(section, settings)| settings.keys().map(|key| variable_name(section, key)))
        .collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(known) => format!("no such setting; did you mean {known}?"),
        None => {
            "no such setting; allowed: TROUPE_ followed by section and setting, such as TROUPE_EDGE_LISTEN"
                .to_owned()
        }
    }
}

/// Reads a variable as the type that the setting has. Lists have commas between their items.
fn typed_like(slot: &Value, value: &str) -> Result<Value, String> {
    match slot {
        Value::Integer(_) => value
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("{value:?} is no whole number")),
        Value::Boolean(_) => value
            .parse()
            .map(Value::Boolean)
            .map_err(|_| format!("{value:?} is neither true nor false")),
        Value::Array(_) => {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(
                items.map(|item| Value::String(item.to_owned())).collect(),
            ))
        }
        _ => Ok(Value::String(value.to_owned())),
    }
}

fn overlay_flags(config: &mut Config, flags: &Flags) -> Result<(), ConfigError> {
    if let Some(data) = &flags.data {
        config.node.data = data.display().to_string();
    }
    if let Some(listen) = flags.listen {
        config.edge.listen = listen;
    }
    if let Some(listen) = flags.cluster_listen {
        config.cluster.listen = ListenChoice::exactly(listen);
    }
    if let Some(name) = &flags.name {
        config.node.name =
            NameChoice::parse(name).map_err(|what| ConfigError::Conflict(format!("--name: {what}")))?;
    }
    if flags.open {
        config.edge.open = true;
    }
    if let Some(filter) = &flags.log {
        config.log.filter =
            LogFilter::parse(filter).map_err(|what| ConfigError::Conflict(format!("--log: {what}")))?;
    }
    if let Some(format) = flags.log_format {
        config.log.format = format;
    }
    Ok(())
}

/// A text that stands in a file of its own, so that it is in no settings file: a key, a passphrase.
///
/// # Errors
/// When the file cannot be read, or everybody on this machine can; `setting` is the one that names it.
pub fn read_secret_file(setting: &str, file: &str) -> Result<SecretString, ConfigError> {
    let refused = |what: String| ConfigError::Conflict(format!("{setting}: {what}"));
    let text = fs::read_to_string(file).map_err(|error| refused(format!("cannot read {file}: {error}")))?;
    #[cfg(unix)]
    if let Some(mode) = mode_for_everybody(Path::new(file)) {
        return Err(refused(format!(
            "{file} has mode {mode:o}: everybody on this machine can read it; chmod 600"
        )));
    }
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

/// The mode of a file that everybody may read or change. (A group may be meant: that is how containers are given secrets.)
#[cfg(unix)]
fn mode_for_everybody(file: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    const EVERYBODY_MASK: u32 = 0o007;
    let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & EVERYBODY_MASK != 0).then_some(mode)
}

/// What no single setting can say about itself.
fn check(config: &Config) -> Result<(), ConfigError> {
    if config.router.planner_url.get().is_some() && config.router.planner_model.is_empty() {
        return Err(ConfigError::Conflict(
            "router.planner_url is set but router.planner_model is not; name the model to ask there"
                .to_owned(),
        ));
    }
    let listen = config.edge.listen;
    if config.edge.open && !listen.ip().is_loopback() {
        return Err(ConfigError::Conflict(format!(
            "edge.open (--open) lets callers in without a key, so it is refused when listening on {listen}; allowed: a loopback address such as 127.0.0.1:7500, or keys"
        )));
    }
    check_neighbourhood(&config.edge)?;
    check_cluster(&config.cluster)
}

/// An entry that is written otherwise than browsers and clients write it would never match.
fn check_neighbourhood(edge: &EdgeConfig) -> Result<(), ConfigError> {
    let is_host = |text: &str| text.trim_end_matches('/').parse::<Authority>().is_ok() && !text.contains('@');
    let is_origin = |text: &str| {
        let parts = text.split_once("://");
        parts.is_some_and(|(scheme, host)| !scheme.is_empty() && is_host(host))
    };
    if let Some(host) = edge.hosts_allowed.iter().find(|host| !is_host(host)) {
        return Err(ConfigError::Conflict(format!(
            "edge.hosts_allowed: {host:?} is no host; allowed: a name or an address, with or without a port, such as troupe.example.org"
        )));
    }
    if let Some(origin) = edge.origins_allowed.iter().find(|origin| !is_origin(origin)) {
        return Err(ConfigError::Conflict(format!(
            "edge.origins_allowed: {origin:?} is no origin; allowed: scheme and host, with or without a port, such as https://troupe.example.org"
        )));
    }
    Ok(())
}

fn check_cluster(cluster: &ClusterConfig) -> Result<(), ConfigError> {
    let conflict = |what: String| Err(ConfigError::Conflict(what));
    let voters_max = cluster.voters_max.get();
    if voters_max.is_multiple_of(2) {
        return conflict(format!(
            "cluster.voters_max = {voters_max}: an even number of voters stands no more failures than one less; allowed: 1, 3, 5"
        ));
    }
    let listens_everywhere = cluster
        .listen
        .chosen()
        .is_some_and(|listen| listen.ip().is_unspecified());
    if listens_everywhere && cluster.advertise.get().is_none() {
        return conflict(
            "cluster.listen names no address under which other nodes reach this one; listen on one, or set cluster.advertise to host:port"
                .to_owned(),
        );
    }
    let (heartbeat_ms, election_ms) = (cluster.heartbeat_ms.get(), cluster.election_timeout_ms.get());
    if election_ms < 2 * heartbeat_ms {
        return conflict(format!(
            "cluster.election_timeout_ms = {election_ms} leaves no room for a late heartbeat; allowed: at least twice cluster.heartbeat_ms, which is {heartbeat_ms}"
        ));
    }
    let (lease_ms, detection_ms) = (cluster.lease_ms.get(), cluster.detection_ms.get());
    if detection_ms < lease_ms / 2 {
        return conflict(format!(
            "cluster.detection_ms = {detection_ms} leaves no room for a late renewal of the lease, which is the sign of life; allowed: at least half of cluster.lease_ms, which is {lease_ms}"
        ));
    }
    Ok(())
}

impl Config {
    /// The data folder: as set, or the platform's.
    ///
    /// # Errors
    /// When neither a setting nor the environment names a folder.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if self.node.data.is_empty() {
            data_dir_default()
        } else {
            Ok(PathBuf::from(&self.node.data))
        }
    }
}

/// `$XDG_DATA_HOME/troupe`, else the platform's folder below the home folder.
///
/// # Errors
/// When the environment names no home folder.
pub fn data_dir_default() -> Result<PathBuf, ConfigError> {
    let folder_of = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(data_home) = folder_of("XDG_DATA_HOME") {
        return Ok(data_home.join("troupe"));
    }
    let home = env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .ok_or_else(|| {
            ConfigError::Conflict("no data folder: HOME is not set; name one with --data DIR".to_owned())
        })?;
    let below_home = if cfg!(target_os = "macos") {
        "Library/Application Support/troupe"
    } else if cfg!(windows) {
        "AppData/Local/troupe"
    } else {
        ".local/share/troupe"
    };
    Ok(home.join(below_home))
}
