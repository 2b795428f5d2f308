//! Times, small. In: the monotonic clock. Out: moments of eight bytes and durations of four; the standard library's take sixteen
//! each, and thousands of streams have a dozen of them.
//!
//! Never: wraps or panics: what is too far away is as far as can be said, which is centuries for a moment and weeks for
//! a duration.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the first time that anybody looked, and one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    /// This one.
    pub(crate) fn now() -> Self {
        Self::from(Instant::now())
    }

    /// None where `earlier` is later.
    pub(crate) fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// How long ago it was.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().duration_since(self)
    }

    /// Since the first time that anybody looked.
    pub(crate) fn nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// That many nanoseconds after the first time that anybody looked.
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// As the standard library and the runtime want it.
    pub(crate) fn instant(self) -> Instant {
        began_at() + Duration::from_nanos(self.nanos())
    }
}

impl From<Instant> for Moment {
    fn from(at: Instant) -> Self {
        Self::from_nanos(nanos(at.saturating_duration_since(began_at())))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Add<Millis> for Moment {
    type Output = Self;

    fn add(self, millis: Millis) -> Self {
        self + millis.duration()
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// Milliseconds, up to seven weeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(u32);

impl Millis {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// Rounded up: nothing is waited for less long than asked for.
impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn began_at() -> Instant {
    static BEGAN_AT: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGAN_AT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_the_instants_they_come_from() {
        let (instant, later) = (Instant::now(), Duration::from_nanos(1_234_567_891));
        let moment = Moment::from(instant);
        assert_eq!(Moment::from(instant + later), moment + later);
        assert_eq!(((moment + later) - moment, moment - (moment + later)), (later, Duration::ZERO));
        assert_eq!(Moment::from((moment + later).instant()), moment + later);
        assert_eq!(Moment::from_nanos(moment.nanos()), moment);
    }

    #[test]
    fn what_is_too_far_away_is_as_far_as_can_be_said() {
        let now = Moment::now();
        assert!(now + Duration::MAX > now + Duration::from_secs(100 * 365 * 86_400));
        assert_eq!((now + Duration::MAX) + Duration::MAX, now + Duration::MAX);
        assert_eq!(Millis::from(Duration::MAX).duration(), Duration::from_millis(u32::MAX.into()));
        assert_eq!(Millis::from(Duration::from_nanos(1)).duration(), Duration::from_millis(1));
        assert_eq!((size_of::<Option<Moment>>(), size_of::<Millis>()), (8, 4));
    }
}
