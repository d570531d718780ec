//! What is held: by which name, until when, and how many at most, over all threads.
//!
//! ```text
//!   PausePlan ──ticket: one more, if there is room──▶ Ticket (held) ──dropped──▶ one fewer
//!       │                └── no room ──▶ refused
//!       └─ over: its time has passed, or it is not published any more
//! ```
//!
//! A pause that is said again is another plan with the same counter: what it holds stays counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use handover::traffic::{Pause, Target};

use crate::generation::Generation;

/// One pause.
#[derive(Debug)]
pub(crate) struct PausePlan {
    pub(crate) target: Target,
    max_held: u32,
    /// Nothing is held any more.
    pub(crate) refuse: bool,
    ends: Instant,
    held: Arc<AtomicU32>,
    said: AtomicBool,
}

impl PausePlan {
    /// From now on; `before` are those of before.
    pub(super) fn new(pause: &Pause, before: &[Arc<Self>]) -> Self {
        let known = before.iter().find(|known| known.target == pause.target);
        let now = Instant::now();
        Self {
            target: pause.target.clone(),
            max_held: pause.max_held,
            refuse: pause.refuse,
            // What is too far away to be said in numbers is as good as a year.
            ends: now.checked_add(pause.left).unwrap_or(now + Duration::from_secs(365 * 24 * 60 * 60)),
            held: known.map(|known| Arc::clone(&known.held)).unwrap_or_default(),
            said: AtomicBool::new(false),
        }
    }

    /// The time left; zero once it is over.
    pub(crate) fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Its time has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whole seconds after which it is worth to come again, at least one.
    pub(crate) fn retry_after(&self) -> u64 {
        self.left().as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX).max(1)
    }

    /// How many it holds now.
    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Says that it has ended by itself: true for the first who asks.
    pub(crate) fn is_news(&self) -> bool {
        !self.said.swap(true, Ordering::Relaxed)
    }

    /// A place among those that are held. One that has a place keeps it.
    pub(crate) fn ticket(&self, present: Option<Ticket>) -> Option<Ticket> {
        take_place(&self.held, self.max_held, present)
    }
}

/// A place among at most `most` that `held` counts. One that has a place keeps it.
pub(super) fn take_place(held: &Arc<AtomicU32>, most: u32, present: Option<Ticket>) -> Option<Ticket> {
    if let Some(ticket) = present
        && Arc::ptr_eq(&ticket.0, held)
    {
        return Some(ticket);
    }
    let one_more = |held: u32| (held < most).then_some(held + 1);
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
    Some(Ticket(Arc::clone(held)))
}

/// A place among those that are held.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<AtomicU32>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All pauses, as a generation's requests meet them.
#[derive(Debug)]
pub(crate) struct Pauses {
    pub(crate) all: Vec<Arc<PausePlan>>,
    /// By position in the generation; empty where none of them is named.
    listeners: Vec<Option<Arc<PausePlan>>>,
    routes: Vec<Option<Arc<PausePlan>>>,
    services: Vec<Option<Arc<PausePlan>>>,
}

impl Pauses {
    /// `None` if there are none.
    pub(super) fn new(generation: &Generation, all: &[Arc<PausePlan>]) -> Option<Self> {
        if all.is_empty() {
            return None;
        }
        let by_name =
            |target: &dyn Fn(&Target) -> bool| all.iter().find(|pause| target(&pause.target)).cloned();
        let places = |count: usize, find: &dyn Fn(usize) -> Option<Arc<PausePlan>>| {
            let places: Vec<_> = (0..count).map(find).collect();
            if places.iter().any(Option::is_some) { places } else { Vec::new() }
        };
        let Generation { listeners, services, config, .. } = generation;
        Some(Self {
            all: all.to_vec(),
            listeners: places(listeners.len(), &|place| {
                let name = &listeners.get(place)?.name;
                by_name(&|target| matches!(target, Target::Listener(paused) if *paused == **name))
            }),
            routes: places(config.routes.len(), &|place| {
                let name = &config.routes.get(place)?.name;
                by_name(&|target| matches!(target, Target::Route(paused) if *paused == **name))
            }),
            services: places(services.len(), &|place| {
                let service = services.get(place)?;
                // Both it and its program may be paused: it goes on when neither is.
                let holds = |pause: &&Arc<PausePlan>| {
                    is_service(&pause.target, &service.name, service.program.as_deref())
                };
                all.iter().filter(holds).max_by_key(|pause| pause.ends).cloned()
            }),
        })
    }

    /// The pause that holds what came in here and goes there, if one does.
    pub(crate) fn find(
        &self,
        listener: Option<usize>,
        route: Option<usize>,
        service: Option<usize>,
    ) -> Option<&Arc<PausePlan>> {
        let look = [(&self.listeners, listener), (&self.routes, route), (&self.services, service)];
        look.into_iter()
            .find_map(|(places, place)| places.get(place?)?.as_ref().filter(|pause| !pause.is_over()))
    }

    /// The same by names, for what belongs to another generation.
    pub(crate) fn find_by_name(
        &self,
        listener: Option<&str>,
        route: Option<&str>,
        service: Option<(&str, Option<&str>)>,
    ) -> Option<&Arc<PausePlan>> {
        self.all.iter().find(|pause| {
            let named = match &pause.target {
                Target::Listener(name) => listener == Some(name),
                Target::Route(name) => route == Some(name),
                target => service.is_some_and(|(name, program)| is_service(target, name, program)),
            };
            named && !pause.is_over()
        })
    }
}

fn is_service(target: &Target, name: &str, program: Option<&str>) -> bool {
    match target {
        Target::Service(paused) => paused == name,
        Target::Program(paused) => program == Some(paused),
        Target::Route(_) | Target::Listener(_) | Target::Endpoint(_) => false,
    }
}
