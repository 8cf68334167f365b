//! How the membership changes, pure: the same on every node.

use std::collections::btree_map::Entry;

use troupe_protocol::cluster::{Epoch, Member, MemberState, Membership, Role};
use troupe_protocol::id::NodeId;

use super::command::{MemberCommand, MemberRefusal};

/// The members and those who were removed are one record: with these bounds it is never too large for the store.
const MEMBERS_MAX: usize = 64;
/// Removed members that are remembered; those that were removed first are forgotten first.
const REMOVED_MAX: usize = 500;
/// The longest address: the longest name that a host can have, and a port.
const ADDRESS_BYTES_MAX: usize = 260;
/// The longest version of a program.
const VERSION_BYTES_MAX: usize = 64;

/// The membership after a command; nothing when the command changes nothing.
///
/// # Errors
/// When the membership does not allow it.
pub(super) fn after(
    membership: &Membership,
    command: &MemberCommand,
) -> Result<Option<Membership>, MemberRefusal> {
    let mut next = membership.clone();
    match command {
        MemberCommand::Add(member) => add(&mut next, member)?,
        MemberCommand::SetState { id, from, state } => set_state(&mut next, *id, *from, *state)?,
        MemberCommand::SetRole { id, role } => set_role(&mut next, *id, *role)?,
        MemberCommand::Exchange { voter, learner } => {
            member(&mut next, *learner)?.role = Role::Voter;
            member(&mut next, *voter)?.role = Role::Learner;
        }
        MemberCommand::Started {
            id,
            generation,
            cluster_address,
            edge_address,
            version,
        } => {
            refuse_too_long([cluster_address, edge_address], version)?;
            let member = member(&mut next, *id)?;
            if *generation < member.generation {
                return Err(MemberRefusal::Superseded {
                    id: *id,
                    known: member.generation,
                    given: *generation,
                });
            }
            member.generation = *generation;
            member.state = MemberState::Up;
            member.cluster_address.clone_from(cluster_address);
            member.edge_address.clone_from(edge_address);
            member.version.clone_from(version);
            next.drain_when_back.remove(id);
        }
        MemberCommand::Remove { id } => remove(&mut next, *id)?,
    }
    if next.members == membership.members && next.drain_when_back == membership.drain_when_back {
        return Ok(None);
    }
    next.epoch = Epoch(membership.epoch.0 + 1);
    note_removed(&mut next, membership);
    Ok(Some(next))
}

/// Every node knows from the membership whom to refuse, also one that was not there when it was removed.
fn note_removed(next: &mut Membership, before: &Membership) {
    let gone = before.members.keys().filter(|id| !next.members.contains_key(id));
    let gone: Vec<NodeId> = gone.copied().collect();
    next.removed.extend(gone.into_iter().map(|id| (id, next.epoch)));
    // Whoever was invited again is a member again.
    next.removed.retain(|id, _| !next.members.contains_key(id));
    while next.removed.len() > REMOVED_MAX {
        let first = next.removed.iter().min_by_key(|(id, epoch)| (**epoch, **id));
        let Some(id) = first.map(|(id, _)| *id) else { break };
        next.removed.remove(&id);
    }
}

fn add(membership: &mut Membership, member: &Member) -> Result<(), MemberRefusal> {
    let holder = membership
        .members
        .values()
        .find(|other| other.name == member.name);
    if let Some(holder) = holder.filter(|holder| holder.id != member.id) {
        return Err(MemberRefusal::NameTaken {
            name: member.name.to_string(),
            holder: holder.id,
        });
    }
    if membership.members.contains_key(&member.id) && holder.is_none() {
        return Err(MemberRefusal::NameTaken {
            name: membership.members[&member.id].name.to_string(),
            holder: member.id,
        });
    }
    refuse_too_long([&member.cluster_address, &member.edge_address], &member.version)?;
    if membership.members.len() >= MEMBERS_MAX && !membership.members.contains_key(&member.id) {
        return Err(MemberRefusal::TooMany {
            members_max: MEMBERS_MAX as u32,
        });
    }
    match membership.members.entry(member.id) {
        Entry::Vacant(vacant) => {
            vacant.insert(member.clone());
        }
        // It was added and is not up yet: since it began anew it may be found elsewhere.
        Entry::Occupied(mut known) if member.generation >= known.get().generation => {
            let known = known.get_mut();
            known.generation = member.generation;
            known.cluster_address.clone_from(&member.cluster_address);
            known.edge_address.clone_from(&member.edge_address);
            known.version.clone_from(&member.version);
        }
        Entry::Occupied(_) => {}
    }
    Ok(())
}

/// What the state cannot hold is refused by it, on every node alike: an entry that cannot be applied would stop them all.
fn refuse_too_long(addresses: [&str; 2], version: &str) -> Result<(), MemberRefusal> {
    let address = addresses.map(|address| ("an address", address, ADDRESS_BYTES_MAX));
    let mut texts = address
        .into_iter()
        .chain([("a version", version, VERSION_BYTES_MAX)]);
    // In the record these take more than one byte each, and they are in no address and no version.
    let is_odd = |letter: char| letter.is_control() || letter == '"' || letter == '\\';
    let is_too_much = |text: &str, max| text.len() > max || text.contains(is_odd);
    match texts.find(|(_, text, bytes_max)| is_too_much(text, *bytes_max)) {
        Some((what, text, bytes_max)) => Err(MemberRefusal::TooLong {
            what: what.to_owned(),
            bytes: text.len() as u32,
            bytes_max: bytes_max as u32,
        }),
        None => Ok(()),
    }
}

/// A silence does not end a drain: only the member's next start does, or whoever wanted it.
fn set_state(
    membership: &mut Membership,
    id: NodeId,
    from: MemberState,
    to: MemberState,
) -> Result<(), MemberRefusal> {
    use MemberState::{Down, Draining, Up};
    let member = member(membership, id)?;
    let was = member.state;
    if was != from {
        return match was == to {
            true => Ok(()),
            false => Err(MemberRefusal::StateChanged(id)),
        };
    }
    member.state = to;
    let drained = membership.drain_when_back.remove(&id);
    match (was, to) {
        (Down, Up) if drained => self::member(membership, id)?.state = Draining,
        (Draining, Down) => {
            membership.drain_when_back.insert(id);
        }
        _ => {}
    }
    Ok(())
}

fn set_role(membership: &mut Membership, id: NodeId, role: Role) -> Result<(), MemberRefusal> {
    if role == Role::Learner {
        refuse_last_voter(membership, id)?;
    }
    member(membership, id)?.role = role;
    Ok(())
}

/// When no other voter is up, the next best member takes over its role, so that somebody is left to vote.
fn remove(membership: &mut Membership, id: NodeId) -> Result<(), MemberRefusal> {
    member(membership, id)?;
    refuse_last_voter(membership, id)?;
    membership.members.remove(&id);
    membership.drain_when_back.remove(&id);
    Ok(())
}

fn refuse_last_voter(membership: &Membership, id: NodeId) -> Result<(), MemberRefusal> {
    let others = membership.members.values().filter(|member| member.id != id);
    let mut voters = others.filter(|member| member.role == Role::Voter && member.state != MemberState::Down);
    match voters.next() {
        Some(_) => Ok(()),
        None => Err(MemberRefusal::LastVoter(id)),
    }
}

fn member(membership: &mut Membership, id: NodeId) -> Result<&mut Member, MemberRefusal> {
    membership.members.get_mut(&id).ok_or(MemberRefusal::NotFound(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::cluster::Generation;
    use troupe_protocol::time::Timestamp;

    use super::*;
    use crate::store::{RecordBatch, Store};

    fn id(number: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(number))
    }

    fn node(number: u128, role: Role) -> Member {
        Member {
            id: id(number),
            name: format!("node-{number}").parse().unwrap(),
            generation: Generation(1),
            role,
            state: MemberState::Up,
            cluster_address: format!("127.0.0.1:{number}"),
            edge_address: String::new(),
            version: "0.1.0".to_owned(),
            joined_at: Timestamp::from_unix_ms(0),
        }
    }

    /// The state of node 1.
    fn set(from: MemberState, state: MemberState) -> MemberCommand {
        MemberCommand::SetState {
            id: id(1),
            from,
            state,
        }
    }

    fn apply(membership: &mut Membership, command: MemberCommand) {
        *membership = after(membership, &command).unwrap().unwrap();
    }

    #[test]
    fn each_change_makes_the_next_epoch_and_no_change_makes_none() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        assert_eq!(membership.epoch, Epoch(1));
        let again = after(&membership, &MemberCommand::Add(node(1, Role::Voter))).unwrap();
        assert_eq!(again, None);
        let down = set(MemberState::Up, MemberState::Down);
        apply(&mut membership, down.clone());
        assert_eq!(membership.epoch, Epoch(2));
        assert_eq!(after(&membership, &down).unwrap(), None);
    }

    #[test]
    fn a_newcomer_that_comes_again_is_found_where_it_is_now() {
        let mut membership = Membership::default();
        let mut newcomer = node(1, Role::Learner);
        apply(&mut membership, MemberCommand::Add(newcomer.clone()));
        newcomer.generation = Generation(2);
        newcomer.cluster_address = "192.0.2.7:7501".to_owned();
        apply(&mut membership, MemberCommand::Add(newcomer.clone()));
        assert_eq!(membership.members[&id(1)], newcomer);
        let former = after(&membership, &MemberCommand::Add(node(1, Role::Learner))).unwrap();
        assert_eq!(former, None, "an earlier start changes nothing");
    }

    #[test]
    fn names_are_unique() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        let mut other = node(2, Role::Learner);
        other.name = node(1, Role::Voter).name;
        assert!(matches!(
            after(&membership, &MemberCommand::Add(other)).unwrap_err(),
            MemberRefusal::NameTaken { holder, .. } if holder == id(1)
        ));
    }

    #[test]
    fn an_earlier_start_is_refused_and_a_later_one_brings_the_member_up() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        let down = set(MemberState::Up, MemberState::Down);
        apply(&mut membership, down);
        let started = |generation| MemberCommand::Started {
            id: id(1),
            generation: Generation(generation),
            cluster_address: "10.0.0.1:7501".to_owned(),
            edge_address: String::new(),
            version: "0.2.0".to_owned(),
        };
        apply(&mut membership, started(3));
        assert_eq!(membership.members[&id(1)].state, MemberState::Up);
        assert!(matches!(
            after(&membership, &started(2)).unwrap_err(),
            MemberRefusal::Superseded { .. }
        ));
    }

    #[test]
    fn a_silence_does_not_end_a_drain() {
        use MemberState::{Down, Draining, Up};
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        let state = |membership: &Membership| membership.members[&id(1)].state;
        for (from, to, is) in [
            (Up, Draining, Draining),
            (Draining, Down, Down),
            (Down, Up, Draining),
            (Draining, Up, Up),
            (Up, Down, Down),
            (Down, Up, Up),
            (Up, Draining, Draining),
            (Draining, Down, Down),
        ] {
            apply(&mut membership, set(from, to));
            assert_eq!(state(&membership), is, "{from:?} -> {to:?}");
        }
        let ended = after(&membership, &set(Down, Down)).unwrap().unwrap();
        let back = after(&ended, &set(Down, Up)).unwrap().unwrap();
        assert_eq!(state(&back), Up, "the drain was ended while it was down");
        let started = MemberCommand::Started {
            id: id(1),
            generation: Generation(2),
            cluster_address: String::new(),
            edge_address: String::new(),
            version: String::new(),
        };
        apply(&mut membership, started);
        assert_eq!(state(&membership), Up);
        assert!(membership.drain_when_back.is_empty());
    }

    #[test]
    fn a_state_that_has_changed_since_a_change_was_decided_stays() {
        use MemberState::{Down, Draining, Up};
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        apply(&mut membership, set(Up, Down));
        let refusal = after(&membership, &set(Draining, Up)).unwrap_err();
        assert_eq!(refusal, MemberRefusal::StateChanged(id(1)));
        assert_eq!(after(&membership, &set(Up, Down)), Ok(None));
    }

    #[test]
    fn the_last_voter_stays() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        apply(&mut membership, MemberCommand::Add(node(2, Role::Learner)));
        let remove = MemberCommand::Remove { id: id(1) };
        assert_eq!(
            after(&membership, &remove).unwrap_err(),
            MemberRefusal::LastVoter(id(1))
        );
        apply(
            &mut membership,
            MemberCommand::Exchange {
                voter: id(1),
                learner: id(2),
            },
        );
        apply(&mut membership, remove);
        assert_eq!(membership.members.len(), 1);
        assert_eq!(membership.members[&id(2)].role, Role::Voter);
    }

    #[test]
    fn the_largest_membership_fits_its_record() {
        let mut membership = Membership::default();
        let long = |number: u128| Member {
            name: format!("{number:040}").parse().unwrap(),
            generation: Generation(u64::MAX),
            cluster_address: "a".repeat(ADDRESS_BYTES_MAX),
            edge_address: "b".repeat(ADDRESS_BYTES_MAX),
            version: "c".repeat(VERSION_BYTES_MAX),
            state: MemberState::Draining,
            id: id(u128::MAX - number),
            ..node(1, Role::Learner)
        };
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        for number in 1..MEMBERS_MAX as u128 {
            apply(&mut membership, MemberCommand::Add(long(number)));
        }
        let removed = 1..=REMOVED_MAX as u128;
        membership.removed = removed
            .map(|number| (id(number << 100), Epoch(u64::MAX)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let tree = Store::open(folder.path()).unwrap().replicated("membership", 1);
        tree.put_into(&mut RecordBatch::default(), "now", &membership)
            .unwrap();
        let one_more = after(&membership, &MemberCommand::Add(long(1_000)));
        assert!(matches!(one_more, Err(MemberRefusal::TooMany { .. })));
        let again = after(&membership, &MemberCommand::Add(long(1)));
        assert_eq!(again, Ok(None));
    }

    #[test]
    fn what_a_member_says_of_itself_is_bounded() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        let started = |cluster_address: String, edge_address: String, version: String| {
            let started = MemberCommand::Started {
                id: id(1),
                generation: Generation(2),
                cluster_address,
                edge_address,
                version,
            };
            after(&membership, &started).map(|_| ())
        };
        let text = |letter: &str, bytes| letter.repeat(bytes);
        let (address, version) = (text("a", ADDRESS_BYTES_MAX), text("v", VERSION_BYTES_MAX));
        assert_eq!(started(address.clone(), address, version), Ok(()));
        for (cluster, edge, version) in [
            (text("a", ADDRESS_BYTES_MAX + 1), String::new(), String::new()),
            (String::new(), text("a", ADDRESS_BYTES_MAX + 1), String::new()),
            (String::new(), String::new(), text("v", VERSION_BYTES_MAX + 1)),
            (String::new(), text("\u{1}", 200), String::new()),
        ] {
            let refusal = started(cluster, edge, version).unwrap_err();
            assert!(matches!(refusal, MemberRefusal::TooLong { .. }), "{refusal}");
        }
        let mut newcomer = node(2, Role::Learner);
        newcomer.cluster_address = text("a", 50_000);
        let refusal = after(&membership, &MemberCommand::Add(newcomer)).unwrap_err();
        assert!(matches!(refusal, MemberRefusal::TooLong { .. }), "{refusal}");
    }

    #[test]
    fn who_was_removed_is_remembered_until_it_is_a_member_again() {
        let mut membership = Membership::default();
        apply(&mut membership, MemberCommand::Add(node(1, Role::Voter)));
        for number in 2..REMOVED_MAX as u128 + 4 {
            apply(&mut membership, MemberCommand::Add(node(number, Role::Learner)));
            apply(&mut membership, MemberCommand::Remove { id: id(number) });
        }
        assert_eq!(membership.removed.len(), REMOVED_MAX);
        assert!(!membership.removed.contains_key(&id(2)), "the first is forgotten");
        assert_eq!(membership.removed[&id(10)], Epoch(19));
        apply(&mut membership, MemberCommand::Add(node(10, Role::Learner)));
        assert!(!membership.removed.contains_key(&id(10)));
    }
}
