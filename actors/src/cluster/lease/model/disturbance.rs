//! What goes wrong: cuts, pauses, members that come and go, leaders that are deposed, lessors that begin anew.

use super::*;

impl World {
    pub(super) fn disturb(&mut self) {
        for node in 0..VOTERS {
            if self.rng.u32(..150) == 0 {
                self.stand(node);
            }
        }
        if self.rng.u32(..1_500) == 0 {
            self.restart_lessor();
        }
        if self.rng.u32(..1_000) == 0 {
            self.cut_off();
        }
        if self.rng.u32(..800) == 0 {
            self.change_membership();
            if self.rng.bool() {
                self.change_membership();
            }
        }
        if self.rng.u32(..500) == 0 {
            let (from, to) = (self.rng.usize(..NODES), self.rng.usize(..NODES));
            let until = self.now + self.rng.u64(100..2_000);
            self.cuts.push_back((from, to, until));
            self.cuts.retain(|cut| cut.2 > self.now);
        }
        if self.with_pauses && self.rng.u32(..700) == 0 {
            let at = self.rng.usize(..NODES);
            self.nodes[at].paused_until = self.now + self.rng.u64(10..2_000);
            self.nodes[at].was_paused = true;
        }
    }

    /// One node can talk to nobody; whoever could not before can.
    pub(super) fn cut_off(&mut self) {
        let alone = self.rng.usize(..NODES);
        let until = self.now + self.rng.u64(100..2_000);
        let others = (0..NODES).filter(|other| *other != alone);
        self.cuts = others
            .flat_map(|other| [(alone, other, until), (other, alone, until)])
            .collect();
    }

    /// The leader's actor ends, and begins its turn anew.
    pub(super) fn restart_lessor(&mut self) {
        let at = self.leader;
        if let Some((term, _)) = self.nodes[at].turn.take() {
            self.after(0, self.catching_up_ms_max, Event::Elected { at, term });
        }
    }
}
