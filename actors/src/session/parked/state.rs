//! Which calls are parked, whose they are and for how long. Pure: it knows nothing of what a call is.

use std::collections::HashMap;

/// Bounds on parked calls.
#[derive(Debug, Clone, Copy)]
pub struct ParkingLimits {
    /// In all.
    pub calls_max: usize,
    /// Of one caller.
    pub calls_of_caller_max: usize,
    /// How long a client has for its answer, in milliseconds.
    pub round_ms_max: i64,
}

impl Default for ParkingLimits {
    fn default() -> Self {
        Self {
            calls_max: 1_000,
            calls_of_caller_max: 32,
            round_ms_max: 300_000,
        }
    }
}

struct Place<Call> {
    caller: Box<str>,
    round: u32,
    until_ms: i64,
    call: Call,
}

/// The parked calls.
pub(super) struct Lot<Call> {
    limits: ParkingLimits,
    places: HashMap<u128, Place<Call>>,
}

impl<Call> Lot<Call> {
    pub fn new(limits: ParkingLimits) -> Self {
        Self {
            limits,
            places: HashMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Parks a call. It comes back where there is no room.
    pub fn park(&mut self, id: u128, caller: &str, round: u32, call: Call, now_ms: i64) -> Result<(), Call> {
        let of_caller = self
            .places
            .values()
            .filter(|place| *place.caller == *caller)
            .count();
        if self.places.len() >= self.limits.calls_max || of_caller >= self.limits.calls_of_caller_max {
            return Err(call);
        }
        let place = Place {
            caller: caller.into(),
            round,
            until_ms: now_ms + self.limits.round_ms_max,
            call,
        };
        self.places.insert(id, place);
        Ok(())
    }

    /// Takes a call out, if it is there in this round and in time.
    pub fn take(&mut self, id: u128, round: u32, now_ms: i64) -> Option<Call> {
        let place = self.places.get(&id)?;
        let is_meant = place.round == round && now_ms <= place.until_ms;
        is_meant
            .then(|| self.places.remove(&id))
            .flatten()
            .map(|place| place.call)
    }

    /// Drops those whose clients did not come back in time; how many.
    pub fn expire(&mut self, now_ms: i64) -> u64 {
        let before = self.places.len();
        self.places.retain(|_, place| place.until_ms >= now_ms);
        (before - self.places.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMITS: ParkingLimits = ParkingLimits {
        calls_max: 3,
        calls_of_caller_max: 2,
        round_ms_max: 100,
    };

    #[test]
    fn a_call_is_taken_once_in_its_round_and_in_time() {
        let mut lot = Lot::new(LIMITS);
        assert_eq!(lot.park(1, "ann", 1, "call", 0), Ok(()));
        assert_eq!(lot.take(1, 0, 50), None, "an older state");
        assert_eq!(lot.take(2, 1, 50), None, "another call");
        assert_eq!(lot.take(1, 1, 101), None, "too late");
        assert_eq!(lot.take(1, 1, 100), Some("call"));
        assert_eq!(lot.take(1, 1, 100), None, "a state is of use once");
    }

    #[test]
    fn there_is_room_for_so_many_and_of_each_caller() {
        let mut lot = Lot::new(LIMITS);
        assert!(lot.park(1, "ann", 1, "a", 0).is_ok());
        assert!(lot.park(2, "ann", 1, "b", 0).is_ok());
        assert_eq!(lot.park(3, "ann", 1, "c", 0), Err("c"), "one caller");
        assert!(lot.park(4, "bob", 1, "d", 50).is_ok());
        assert_eq!(lot.park(5, "eve", 1, "e", 50), Err("e"), "all");
        assert_eq!((lot.expire(100), lot.len()), (0, 3));
        assert_eq!((lot.expire(101), lot.len()), (2, 1));
    }
}
