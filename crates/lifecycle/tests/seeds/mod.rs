//! Many short lives of a machine in a model world, each from one seed: run on all cores, added up, replayed and told.
//!
//! `HANDOVER_SIM_SEED=<seed>` replays one of them with its trace; `HANDOVER_SIM_SEEDS=<count>` runs more or fewer.

pub(crate) mod rng;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// A rule that does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: u8,
    pub(crate) text: String,
}

/// What one life has seen.
pub(crate) struct Life<T> {
    pub(crate) tally: T,
    pub(crate) steps: u64,
    /// What happened, if it was asked for.
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) violation: Option<Violation>,
}

/// What many lives have seen, all together.
struct Lives<T> {
    tally: T,
    steps: u64,
    /// The smallest seed that failed.
    failed: Option<(u64, Violation)>,
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}

/// Runs seeds on all cores until one fails.
fn run<T: Default + Send>(
    count: u64,
    live: impl Fn(u64) -> Life<T> + Sync,
    add: impl Fn(&mut T, T) + Sync,
) -> Lives<T> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut all = Lives { tally: T::default(), steps: 0, failed: None };
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return all;
            }
            let life = live(seed);
            add(&mut all.tally, life.tally);
            all.steps += life.steps;
            if let Some(violation) = life.violation {
                next.store(count, Ordering::Relaxed);
                all.failed = Some((seed, violation));
                return all;
            }
        }
    };
    let parts: Vec<Lives<T>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Lives { tally: T::default(), steps: 0, failed: None };
    for part in parts {
        add(&mut all.tally, part.tally);
        all.steps += part.steps;
        let smallest = |one: &(u64, Violation)| all.failed.as_ref().is_none_or(|(other, _)| one.0 < *other);
        all.failed = part.failed.filter(smallest).or(all.failed);
    }
    all
}

/// A life with its trace, for people.
fn report<T>(seed: u64, life: Life<T>) -> String {
    let trace = life.trace.unwrap_or_default().join("\n");
    match life.violation {
        Some(Violation { rule, text }) => {
            format!("{trace}\n\nseed {seed} breaks rule {rule}: {text}\nreplay: HANDOVER_SIM_SEED={seed}")
        }
        None => format!("{trace}\n\nseed {seed} breaks no rule"),
    }
}

/// The ordinary test: `live(seed, with its trace)` breaks no rule in so many lives, or as many as the environment says. What they have
/// seen, unless there were fewer.
#[allow(clippy::print_stderr)] // A trace is read by people.
pub(crate) fn hold<T: Default + Send + Debug>(
    ordinary: u64,
    live: impl Fn(u64, bool) -> Life<T> + Sync,
    add: impl Fn(&mut T, T) + Sync,
) -> Option<T> {
    if let Some(seed) = number_from("HANDOVER_SIM_SEED") {
        let life = live(seed, true);
        let fails = life.violation.is_some();
        eprintln!("{}", report(seed, life));
        assert!(!fails, "seed {seed} fails");
        return None;
    }
    let count = number_from("HANDOVER_SIM_SEEDS").unwrap_or(ordinary);
    let lives = run(count, |seed| live(seed, false), add);
    if let Some((seed, _)) = lives.failed {
        panic!("{}", report(seed, live(seed, true)));
    }
    eprintln!("{count} seeds, {} happenings\n{:?}", lives.steps, lives.tally);
    (count >= ordinary).then_some(lives.tally)
}

/// A deliberate mistake breaks one of these rules within so many lives.
pub(crate) fn assert_noticed<T: Default + Send>(
    what: impl Debug,
    rules: &[u8],
    count: u64,
    live: impl Fn(u64) -> Life<T> + Sync,
    add: impl Fn(&mut T, T) + Sync,
) {
    let Some((seed, violation)) = run(count, live, add).failed else {
        panic!("{what:?} went unnoticed");
    };
    assert!(rules.contains(&violation.rule), "{what:?} was noticed in seed {seed} as {violation:?}");
}
