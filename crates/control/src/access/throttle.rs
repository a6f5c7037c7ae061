//! How often strangers may guess passwords: counts of tries by address and name, in a table of fixed size.
//!
//! Nobody outside can foresee the place of a count, so that the table cannot be filled or emptied by guessing
//! names.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

/// Tries of one address for one name that need not wait.
const FREE_FOR_NAME: u32 = 5;

/// The longest pause between two of them.
const PAUSE_FOR_NAME: Duration = Duration::from_mins(15);

/// Tries of one address for any names that need not wait.
const FREE_FOR_ADDRESS: u32 = 100;

/// The longest pause between two of them: others may have the same address.
const PAUSE_FOR_ADDRESS: Duration = Duration::from_mins(1);

/// After so long without a try all is forgotten.
const FORGET: Duration = Duration::from_mins(30);

/// Places for counts; two have the same with a chance of one in as many.
const PLACES: usize = 1 << 16;

/// Tries at one place of the table.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    count: u32,
    last: Duration,
}

impl Tries {
    /// How long the next has to wait.
    fn wait(self, now: Duration, free: u32, most: Duration) -> Option<Duration> {
        let over = self.count.checked_sub(free)?;
        let pause = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(over)).min(most);
        let until = self.last.saturating_add(pause);
        until.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    fn add(&mut self, now: Duration) {
        if now.saturating_sub(self.last) > FORGET {
            self.count = 0;
        }
        *self = Self { count: self.count.saturating_add(1), last: now };
    }
}

/// Counts of tries, by address and name.
#[derive(Debug)]
pub(super) struct Throttle {
    places: Vec<Tries>,
    hasher: RandomState,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { places: vec![Tries::default(); PLACES], hasher: RandomState::new() }
    }
}

impl Throttle {
    fn place<T: std::hash::Hash>(&mut self, of: T) -> Option<&mut Tries> {
        let hash = self.hasher.hash_one(of);
        let at = hash.checked_rem(u64::try_from(PLACES).ok()?)?;
        self.places.get_mut(usize::try_from(at).ok()?)
    }

    /// Counts a try, or says how long it has to wait.
    pub(super) fn admit(
        &mut self,
        from: Option<IpAddr>,
        name: &str,
        now: Duration,
    ) -> Option<Duration> {
        let from = from.map(network);
        let rules = [
            (
                from.filter(counts).map(|from| (Some(from), None)),
                FREE_FOR_ADDRESS,
                PAUSE_FOR_ADDRESS,
            ),
            (Some((from, Some(name))), FREE_FOR_NAME, PAUSE_FOR_NAME),
        ];
        for (of, free, most) in rules {
            let place = of.and_then(|of| self.place(of)).copied();
            if let Some(wait) = place.and_then(|tries| tries.wait(now, free, most)) {
                return Some(wait);
            }
        }
        for (of, ..) in rules {
            if let Some(tries) = of.and_then(|of| self.place(of)) {
                tries.add(now);
            }
        }
        None
    }

    /// The password was right.
    pub(super) fn succeeded(&mut self, from: Option<IpAddr>, name: &str) {
        let from = from.map(network);
        if let Some(tries) = self.place((from, Some(name))) {
            tries.count = 0;
        }
        let address = from.filter(counts).map(|from| (Some(from), None::<&str>));
        if let Some(tries) = address.and_then(|of| self.place(of)) {
            tries.count = tries.count.saturating_sub(1);
        }
    }
}

/// The network that is one caller's: an address, or the half of one that is given to a customer.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(bits.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Whether an address is one caller's. Behind a proxy on this machine all callers have its own.
pub(super) fn counts(address: &IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "a caller's address may be unknown")]
    fn address(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn tries_wait_longer_and_longer_and_only_where_they_came_from() {
        let mut throttle = Throttle::default();
        let mut now = Duration::from_hours(1);
        for _ in 0..FREE_FOR_NAME {
            assert_eq!(throttle.admit(address(1), "ann", now), None);
        }
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let wait = throttle.admit(address(1), "ann", now).expect("waits");
            assert!(wait >= last && wait <= PAUSE_FOR_NAME);
            last = wait;
            now += wait;
            assert_eq!(throttle.admit(address(1), "ann", now), None);
        }
        // The right password comes through from elsewhere, and another name from here.
        assert_eq!(throttle.admit(address(2), "ann", now), None);
        assert_eq!(throttle.admit(address(1), "bob", now), None);
        throttle.succeeded(address(1), "ann");
        assert_eq!(throttle.admit(address(1), "ann", now), None);
    }

    #[test]
    fn guessing_names_resets_nothing_and_is_bounded() {
        let mut throttle = Throttle::default();
        let now = Duration::from_hours(1);
        for _ in 0..FREE_FOR_NAME {
            throttle.admit(address(1), "ann", now);
        }
        assert!(throttle.admit(address(1), "ann", now).is_some());
        let admitted =
            (0..50_000).filter(|name| throttle.admit(address(1), &name.to_string(), now).is_none());
        assert!(admitted.count() <= 100);
        for name in 0..50_000 {
            throttle.admit(Some(IpAddr::from([127, 0, 0, 1])), &name.to_string(), now);
        }
        assert!(throttle.admit(address(1), "ann", now).is_some());
        assert_eq!(throttle.places.len(), PLACES);
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let text = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(network(text("2001:db8::1")), network(text("2001:db8::2:1:1:1")));
        assert_ne!(network(text("2001:db8:0:1::1")), network(text("2001:db8::1")));
        assert_eq!(network(text("::ffff:192.0.2.1")), text("192.0.2.1"));
    }
}
