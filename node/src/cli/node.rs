//! `troupe node …`: the members of the cluster.

use std::{fmt::Write, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use troupe_protocol::{
    api::Invitation,
    cluster::{ClusterStatus, LinkState, LinkStatus, MemberStatus, Role, is_local_only},
    id::NodeId,
};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, or_dash},
};

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Make a one-time string with which another machine joins: `troupe up --cluster-listen ITS-ADDRESS:7501 --join
    /// STRING` there.
    Invite,
    /// List the members: state, role, leader, links.
    List,
    /// Have a member hand over all it runs; it stays a member, and takes nothing more until undrained or restarted.
    Drain(Which),
    /// Let a drained member take its share again.
    Undrain(Which),
    /// Let a member vote on what is written.
    Promote(Which),
    /// Let a member follow without a vote.
    Demote(Which),
    /// Remove a member for good, such as a machine that is gone. It can join again only with a fresh data folder. A
    /// machine in foreign hands means a new cluster: it holds the cluster's keys.
    Remove(Which),
}

/// One member.
#[derive(Debug, Args)]
pub struct Which {
    /// Its name or its id.
    #[arg(id = "member", value_name = "NODE")] // not the id of the flag --node, which every command has
    node: String,
}

pub async fn run(client: &Client, command: NodeCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        NodeCommand::Invite => {
            let made = client.post(&["cluster", "invitations"], &json!({})).await?;
            let status = client.get(&["cluster"], &[]).await?;
            for note in notes_for_newcomers(&status) {
                output.note(&note);
            }
            output.show(made, |made: Invitation| made.join)?;
        }
        NodeCommand::List => {
            let status = client.get(&["cluster"], &[]).await?;
            output.show(status, |status: ClusterStatus| members_in_words(&status))?;
        }
        NodeCommand::Drain(which) => command_member(client, &which, "drain", output).await?,
        NodeCommand::Undrain(which) => command_member(client, &which, "undrain", output).await?,
        NodeCommand::Promote(which) => command_member(client, &which, "promote", output).await?,
        NodeCommand::Demote(which) => command_member(client, &which, "demote", output).await?,
        NodeCommand::Remove(Which { node }) => {
            let name = name_of(client, &node).await?;
            let query = [("confirm", name.clone())];
            let answer = client.delete_with(&["cluster", "members", &node], &query).await?;
            output.show(answer, |_: Value| format!("removed {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be known about a join string that this member makes.
fn notes_for_newcomers(status: &Value) -> Vec<String> {
    let mut notes = vec![
        "on the other machine, once, within the hour: troupe up --cluster-listen ITS-ADDRESS:7501 --join STRING"
            .to_owned(),
    ];
    let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
    let own = members.iter().find(|member| member["is_self"] == true);
    let address = own.and_then(|own| own["cluster_address"].as_str());
    if let Some(address) = address.filter(|address| is_local_only(address)) {
        notes.push(format!(
            "this node listens for others at {address}, where only nodes on this machine (which need no \
             --cluster-listen) reach it: for other machines start it with --cluster-listen ADDRESS:7501 and invite again"
        ));
    }
    notes
}

/// Typing the command on a command line is the confirmation that the API asks for.
async fn command_member(client: &Client, which: &Which, verb: &str, output: Output) -> Result<(), CliError> {
    let name = name_of(client, &which.node).await?;
    let path = ["cluster", "members", &which.node, verb];
    let status = client.post(&path, &json!({ "confirm": name })).await?;
    output.note(&format!("{verb}: {name}"));
    output.show(status, |status: ClusterStatus| members_in_words(&status))
}

/// The name of the member that is called by name or id.
async fn name_of(client: &Client, node: &str) -> Result<String, CliError> {
    let status = client.get(&["cluster"], &[]).await?;
    let members = status["members"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let member = members
        .iter()
        .find(|member| member["id"] == node || member["name"] == node);
    // One that is unknown is refused by the node, in its words.
    let name = member.and_then(|member| member["name"].as_str());
    Ok(name.unwrap_or(node).to_owned())
}

/// What people call the nodes.
pub struct NodeNames(Vec<(NodeId, String)>);

impl NodeNames {
    /// The members of the cluster; JSON has ids, so nobody is asked for it.
    pub async fn of(client: &Client, output: Output) -> Result<Self, CliError> {
        if output.json {
            return Ok(Self(Vec::new()));
        }
        let status = client.get(&["cluster"], &[]).await?;
        let status: ClusterStatus =
            serde_json::from_value(status).map_err(|error| CliError::Failed(error.to_string()))?;
        let members = status.members.into_iter().map(|known| known.member);
        Ok(Self(
            members
                .map(|member| (member.id, member.name.to_string()))
                .collect(),
        ))
    }

    /// A node's name, where there are several to tell apart.
    pub fn name_among_several(&self, node: Option<NodeId>) -> Option<String> {
        let node = node.filter(|_| self.0.len() > 1)?;
        Some(self.name(node))
    }

    fn name(&self, node: NodeId) -> String {
        let known = self.0.iter().find(|(id, _)| *id == node);
        known.map_or_else(|| node.to_string(), |(_, name)| name.clone())
    }

    /// Says whose part is missing, if any is.
    pub fn missing(&self, unanswered: &[NodeId]) -> String {
        if unanswered.is_empty() {
            return String::new();
        }
        let names: Vec<String> = unanswered.iter().map(|node| self.name(*node)).collect();
        format!("not answered: {}\n", names.join(", "))
    }
}

/// A line for each member.
pub fn members_in_words(status: &ClusterStatus) -> String {
    let mut table = Table::new(&[
        "name",
        "state",
        "role",
        "placed",
        "link",
        "round trip",
        "cluster address",
        "address",
        "version",
    ]);
    for member in &status.members {
        let link = member.link.as_ref();
        table.row([
            name_in_words(member),
            word(&member.member.state),
            role_in_words(member),
            or_dash(member.placed),
            link_in_words(member),
            or_dash(link.and_then(|link| link.round_trip_us).map(micros)),
            member.member.cluster_address.clone(),
            member.member.edge_address.clone(),
            member.member.version.clone(),
        ]);
    }
    table.or("no members")
}

/// The log and the epoch, in two lines.
pub fn log_in_words(status: &ClusterStatus) -> String {
    let leader = status.members.iter().find(|member| member.is_leader);
    let leader = leader.map_or_else(
        || "no leader".to_owned(),
        |leader| format!("led by {}", leader.member.name),
    );
    let log = &status.log;
    let mut text = format!(
        "cluster  epoch {}, {leader}{}\n",
        status.epoch,
        if status.has_quorum {
            ""
        } else {
            ", no quorum: writes are refused"
        },
    );
    let _ = writeln!(
        text,
        "log      term {}, last entry {}, applied {}, snapshot at {}",
        log.term, log.last, log.applied, log.snapshot
    );
    text
}

fn name_in_words(member: &MemberStatus) -> String {
    let mark = if member.is_self { " (this node)" } else { "" };
    format!("{}{mark}", member.member.name)
}

fn role_in_words(member: &MemberStatus) -> String {
    match (member.is_leader, member.member.role) {
        (true, _) => "leader".to_owned(),
        (false, Role::Voter) => "voter".to_owned(),
        (false, Role::Learner) => "learner".to_owned(),
    }
}

fn link_in_words(member: &MemberStatus) -> String {
    match &member.link {
        None => "-".to_owned(),
        Some(LinkStatus {
            state: LinkState::Up, ..
        }) => "up".to_owned(),
        Some(link) => match &link.last_error {
            Some(error) => format!("{} ({error})", word(&link.state)),
            None => word(&link.state),
        },
    }
}

/// A plain enum's name as it is on the wire.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn micros(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_invites_from_a_node_that_no_other_machine_reaches_is_told() {
        let at = |address: &str| {
            let own = json!({ "is_self": true, "cluster_address": address });
            let other = json!({ "is_self": false, "cluster_address": "127.0.0.1:7510" });
            notes_for_newcomers(&json!({ "members": [other, own] })).join("\n")
        };
        assert!(at("127.0.0.1:7501").contains("at 127.0.0.1:7501"));
        assert!(!at("192.0.2.7:7501").contains("at 192.0.2.7:7501"));
        assert!(at("192.0.2.7:7501").contains("--cluster-listen"));
    }
}
