//! Upstreams that are left alone for a while. In: what workers have met. Out: what the others are to be told.
//!
//! Never: says again what is known, believes in more than an hour, lets one worker fill the channels of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handoff_shared::ids::WorkerId;
use handoff_shared::limits::{
    COOLDOWN_MAX, COOLDOWN_MODEL_BYTES_MAX, COOLDOWN_NEWS_MIN, COOLDOWNS_MAX, COOLDOWNS_PER_SECOND,
};
use handoff_shared::message::Cooldown;
use handoff_shared::status::CooldownStatus;

/// All that are remembered, each with its end.
#[derive(Debug, Default)]
pub(crate) struct Cooldowns {
    ends: BTreeMap<Key, Instant>,
    /// What each worker has said in its present second.
    said: BTreeMap<WorkerId, Said>,
}

/// Backend, account, one model or all, and whether it must be left alone.
type Key = (String, u64, Option<String>, bool);

#[derive(Debug)]
struct Said {
    since: Instant,
    count: u32,
}

/// What a worker's word is worth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The others are to be told this.
    News(Cooldown),
    /// They know, or it is not worth their while.
    Nothing,
    /// No honest worker says that.
    Impossible,
}

impl Cooldowns {
    /// A worker has met an upstream that wants to be left alone. The backend's name is one of the configured ones.
    pub(crate) fn hear(&mut self, now: Instant, worker: WorkerId, cooldown: Cooldown) -> Heard {
        let Cooldown { backend, account, model, must, remaining_ms } = cooldown;
        if model.as_ref().is_some_and(|model| model.len() > COOLDOWN_MODEL_BYTES_MAX) {
            return Heard::Impossible;
        }
        if remaining_ms == 0 || !self.may_speak(now, worker) {
            return Heard::Nothing;
        }
        self.forget_ended(now);
        let end = now + Duration::from_millis(remaining_ms).min(COOLDOWN_MAX);
        let key = (backend, account, model, must);
        match self.ends.get(&key) {
            Some(known) if end < *known + COOLDOWN_NEWS_MIN => return Heard::Nothing,
            Some(_) => {}
            None => self.make_room(),
        }
        let news = told(now, &key, end);
        self.ends.insert(key, end);
        Heard::News(news)
    }

    /// All that last, for a worker that knows none of them.
    pub(crate) fn lasting(&self, now: Instant) -> impl Iterator<Item = Cooldown> {
        let lasting = self.ends.iter().filter(move |(_, end)| **end > now);
        lasting.map(move |(key, end)| told(now, key, *end))
    }

    /// For `/status`: accounts of the same backend are not told apart, the longest wait of them counts.
    pub(crate) fn status(&self, now: Instant) -> Vec<CooldownStatus> {
        let mut shown: Vec<CooldownStatus> = Vec::new();
        for Cooldown { backend, model, must, remaining_ms, .. } in self.lasting(now) {
            let is_same = |shown: &&mut CooldownStatus| {
                (&shown.backend, &shown.model, shown.must) == (&backend, &model, must)
            };
            match shown.iter_mut().find(is_same) {
                Some(same) => same.remaining_ms = same.remaining_ms.max(remaining_ms),
                None => shown.push(CooldownStatus { backend, model, must, remaining_ms }),
            }
        }
        shown
    }

    /// How many accounts and models are left alone, by backend.
    pub(crate) fn by_backend(&self, now: Instant) -> BTreeMap<&str, usize> {
        let lasting = self.ends.iter().filter(|(_, end)| **end > now);
        let places: BTreeSet<_> =
            lasting.map(|((backend, account, model, _), _)| (backend.as_str(), account, model)).collect();
        let mut counts = BTreeMap::new();
        for (backend, ..) in places {
            *counts.entry(backend).or_default() += 1;
        }
        counts
    }

    /// The worker is dead.
    pub(crate) fn bury(&mut self, worker: WorkerId) {
        self.said.remove(&worker);
    }

    fn may_speak(&mut self, now: Instant, worker: WorkerId) -> bool {
        let said = self.said.entry(worker).or_insert(Said { since: now, count: 0 });
        if now.duration_since(said.since) >= Duration::from_secs(1) {
            *said = Said { since: now, count: 0 };
        }
        said.count = said.count.saturating_add(1);
        said.count <= COOLDOWNS_PER_SECOND
    }

    fn forget_ended(&mut self, now: Instant) {
        self.ends.retain(|_, end| *end > now);
    }

    fn make_room(&mut self) {
        if self.ends.len() >= COOLDOWNS_MAX {
            let earliest = self.ends.iter().min_by_key(|(_, end)| **end).map(|(key, _)| key.clone());
            earliest.and_then(|key| self.ends.remove(&key));
        }
    }
}

fn told(now: Instant, (backend, account, model, must): &Key, end: Instant) -> Cooldown {
    let remaining_ms = u64::try_from(end.duration_since(now).as_millis()).unwrap_or(u64::MAX);
    Cooldown { backend: backend.clone(), account: *account, model: model.clone(), must: *must, remaining_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ALICE: WorkerId = WorkerId(1);
    const BOB: WorkerId = WorkerId(2);

    fn cooldown(model: &str, remaining_ms: u64) -> Cooldown {
        Cooldown {
            backend: "eu".to_owned(),
            account: 7,
            model: Some(model.to_owned()),
            must: true,
            remaining_ms,
        }
    }

    fn remaining(cooldowns: &Cooldowns, now: Instant) -> Vec<u64> {
        cooldowns.lasting(now).map(|cooldown| cooldown.remaining_ms).collect()
    }

    #[test]
    fn the_first_word_is_news_and_the_same_again_is_not() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        assert_eq!(cooldowns.hear(now, ALICE, cooldown("a", 5000)), Heard::News(cooldown("a", 5000)));
        assert_eq!(cooldowns.hear(now + SECOND, BOB, cooldown("a", 4900)), Heard::Nothing);
        assert_eq!(remaining(&cooldowns, now + SECOND), [4000], "what the others were told holds");
    }

    #[test]
    fn a_later_end_extends_and_an_earlier_one_does_not_shorten() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        cooldowns.hear(now, ALICE, cooldown("a", 5000));
        assert_eq!(cooldowns.hear(now, BOB, cooldown("a", 9000)), Heard::News(cooldown("a", 9000)));
        assert_eq!(cooldowns.hear(now, BOB, cooldown("a", 1)), Heard::Nothing);
        assert_eq!(remaining(&cooldowns, now), [9000]);
    }

    #[test]
    fn extensions_in_small_steps_add_up() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        cooldowns.hear(now, ALICE, cooldown("a", 5000));
        assert_eq!(cooldowns.hear(now, ALICE, cooldown("a", 5600)), Heard::Nothing);
        assert!(matches!(cooldowns.hear(now, ALICE, cooldown("a", 6200)), Heard::News(_)));
    }

    #[test]
    fn another_account_another_model_or_the_whole_backend_is_another_cooldown() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        let whole = Cooldown { model: None, ..cooldown("", 2000) };
        let other_account = Cooldown { account: 8, ..cooldown("a", 3000) };
        let may = Cooldown { must: false, ..cooldown("a", 2000) };
        for cooldown in [cooldown("a", 1000), cooldown("b", 1000), whole, other_account, may] {
            assert_eq!(cooldowns.hear(now, ALICE, cooldown.clone()), Heard::News(cooldown));
        }
        assert_eq!(cooldowns.by_backend(now), BTreeMap::from([("eu", 4)]));
        let shown: Vec<_> = cooldowns
            .status(now)
            .into_iter()
            .map(|shown| (shown.model, shown.must, shown.remaining_ms))
            .collect();
        let model = |name: &str| Some(name.to_owned());
        let expected = [
            (None, true, 2000),
            (model("a"), false, 2000),
            (model("a"), true, 3000),
            (model("b"), true, 1000),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_has_ended_is_forgotten_and_is_news_again() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        cooldowns.hear(now, ALICE, cooldown("a", 1000));
        let later = now + SECOND;
        assert!(remaining(&cooldowns, later).is_empty() && cooldowns.by_backend(later).is_empty());
        assert!(matches!(cooldowns.hear(later, ALICE, cooldown("a", 500)), Heard::News(_)));
        assert_eq!(cooldowns.ends.len(), 1);
    }

    #[test]
    fn nobody_is_left_alone_for_more_than_an_hour_or_for_no_time() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        let hour = cooldown("a", 3_600_000);
        assert_eq!(cooldowns.hear(now, ALICE, cooldown("a", u64::MAX)), Heard::News(hour));
        assert_eq!(cooldowns.hear(now, ALICE, cooldown("b", 0)), Heard::Nothing);
    }

    #[test]
    fn a_model_longer_than_a_name_may_be_is_impossible() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        let longest = "m".repeat(COOLDOWN_MODEL_BYTES_MAX);
        assert!(matches!(cooldowns.hear(now, ALICE, cooldown(&longest, 1000)), Heard::News(_)));
        assert_eq!(cooldowns.hear(now, ALICE, cooldown(&(longest + "m"), 1000)), Heard::Impossible);
    }

    #[test]
    fn one_worker_alone_cannot_say_more_than_the_others_can_hear() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        let mut say = |at, worker, number: u32| {
            matches!(cooldowns.hear(at, worker, cooldown(&number.to_string(), 60_000)), Heard::News(_))
        };
        let believed = (0..10_000).filter(|number| say(now, ALICE, *number)).count();
        assert_eq!(believed, COOLDOWNS_PER_SECOND as usize);
        assert!(say(now, BOB, 20_000), "the others are heard");
        assert!(say(now + SECOND, ALICE, 20_001), "so is it, a second later");
    }

    #[test]
    fn too_many_push_out_the_earliest_to_end() {
        let (mut cooldowns, now) = (Cooldowns::default(), Instant::now());
        let workers = || (0u32..).take(COOLDOWNS_MAX + 1);
        for number in workers() {
            let late = cooldown(&format!("{number:05}"), 10_000 + u64::from(number));
            cooldowns.hear(now, WorkerId(number), late);
        }
        assert_eq!(cooldowns.ends.len(), COOLDOWNS_MAX);
        assert_eq!(remaining(&cooldowns, now)[0], 10_001);
        workers().for_each(|number| cooldowns.bury(WorkerId(number)));
        assert!(cooldowns.said.is_empty());
    }
}
