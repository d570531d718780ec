//! What other threads ask for.
//!
//! ```text
//!   a listener goes:  Listen ──▶ its queue is taken in, what is open is retired; the entry stays, because connections that other
//!                     threads accepted may still be on their way
//!                     Sweep  ──▶ sent when all threads have obeyed Listen, so behind all of those: the entry goes
//!                     with its last connection
//! ```

use super::*;

impl EventLoop {
    pub(super) fn obey(&mut self) {
        for command in self.mailbox.take() {
            match command {
                Command::Adopt(arrival) => self.adopt(arrival),
                Command::Listen { sockets, cut_after, done } => {
                    self.listen(&sockets, cut_after);
                    drop(done);
                }
                Command::Sweep { done } => {
                    self.sweep();
                    drop(done);
                }
                Command::Drain { spread, done } => {
                    self.drain(spread);
                    drop(done);
                }
                Command::Resume { done } => {
                    self.resume();
                    drop(done);
                }
                Command::CloseListeners { done } => {
                    self.close_listeners();
                    drop(done);
                }
                Command::Traffic { done } => {
                    self.follow_traffic();
                    drop(done);
                }
                Command::Census(census) => self.answer_census(census),
                Command::Show { left, shown } => {
                    let _ = shown.send(self.show(&left));
                }
                Command::Cut { losses } => {
                    // Who asked may have given up waiting.
                    let _ = losses.send(self.cut());
                }
                Command::Stop => self.running = false,
                of_a_move => self.obey_move(of_a_move),
            }
        }
    }

    /// Connections go to another worker, or come from one.
    fn obey_move(&mut self, command: Command) {
        match command {
            Command::StandBy { done } => {
                self.stand_by();
                drop(done);
            }
            Command::Probe(probe) => self.watch_probe(probe),
            Command::Precopy { outlet, format, done } => self.begin_giving(outlet, format, done),
            Command::Freeze { frozen, verdict } => self.freeze(&frozen, &verdict),
            Command::CallOff => self.call_off(),
            Command::Woken => self.woken(),
            Command::Sockets { first, sockets } => self.take_sockets(first, sockets),
            Command::TakeIn { format, sections, taken } => {
                let _ = taken.send(self.take_in_all(format, &sections));
            }
            Command::Serve { done } => {
                self.serve();
                drop(done);
            }
            Command::Late { format, state, sockets } => self.take_late(format, &state, sockets),
            Command::Adopt(_)
            | Command::Listen { .. }
            | Command::Sweep { .. }
            | Command::Drain { .. }
            | Command::Resume { .. }
            | Command::CloseListeners { .. }
            | Command::Traffic { .. }
            | Command::Census(_)
            | Command::Show { .. }
            | Command::Cut { .. }
            | Command::Stop => {}
        }
    }

    /// Follows the published generation and its sockets.
    fn listen(&mut self, sockets: &[Socket], cut_after: Ticks) {
        self.cx.refresh();
        let mut gone = Vec::new();
        for number in 0..self.cx.listeners.capacity() {
            let Some(listener) = self.cx.listeners.get_mut(number) else { continue };
            let stays = !listener.removed && sockets.iter().any(|socket| socket.serial == listener.serial);
            if !stays && listener.socket.is_some() {
                gone.push(number);
            }
        }
        for number in gone {
            self.retire_listener(number, cut_after);
        }
        let local = Rc::clone(self.cx.local());
        for socket in sockets {
            let known = |(_, listener): (usize, &LocalListener)| {
                listener.serial == socket.serial && !listener.removed
            };
            if self.cx.listeners.iter().any(known) {
                continue;
            }
            let Some(position) = local.generation.listener_at(&socket.name, &socket.address) else {
                continue;
            };
            self.cx.listeners.insert(LocalListener::new(socket, Rc::clone(&local), position));
        }
        for arrival in std::mem::take(&mut self.early) {
            self.adopt(arrival);
        }
        self.follow_traffic();
    }

    /// All threads know the sockets of the present generation, and nothing is on its way any more for those that went.
    fn sweep(&mut self) {
        for number in 0..self.cx.listeners.capacity() {
            let Some(listener) = self.cx.listeners.get_mut(number) else { continue };
            if listener.removed && listener.socket.is_none() {
                listener.settled = true;
                if listener.open.get() == 0 {
                    self.cx.listeners.remove(number);
                }
            }
        }
        for arrival in std::mem::take(&mut self.early) {
            self.turn_away(None, &arrival);
        }
    }

    /// A listener goes: what waits in its queue is taken in, what is open ends by itself or is cut.
    fn retire_listener(&mut self, number: usize, cut_after: Ticks) {
        let Ok(short) = u32::try_from(number) else { return };
        let cut_at = self.cx.clock.after(cut_after);
        self.take_queue(short);
        self.unwatch(number);
        if let Some(listener) = self.cx.listeners.get_mut(number) {
            listener.removed = true;
            listener.socket = None;
            listener.cut_at = Some(cut_at);
        }
        self.retire_conns(Some(short), RETIRE_SPREAD, Some(cut_at));
    }

    /// What waits in the queue of a listener that goes is ours, unless another worker accepts from it.
    fn take_queue(&mut self, number: u32) {
        if !self.standing {
            self.accept_last(number);
        }
    }

    fn retire_conns(&mut self, listener: Option<u32>, spread: Ticks, cut_at: Option<u64>) {
        for (index, place) in self.places.iter_mut().enumerate() {
            let Some(conn) = &mut place.conn else { continue };
            if listener.is_some_and(|listener| conn.listener() != listener) {
                continue;
            }
            let idle_until = self.cx.clock.after(self.spread.within(spread));
            conn.retire(idle_until, cut_at);
            if let Ok(index) = u32::try_from(index) {
                self.wheel.arm(index, conn.deadline());
            }
        }
    }

    pub(super) fn drain(&mut self, spread: Ticks) {
        if self.puts_off_drain(spread) {
            return;
        }
        self.cx.draining = true;
        self.drain_spread = spread;
        for number in 0..self.cx.listeners.capacity() {
            self.unwatch(number);
        }
        self.retire_conns(None, spread, None);
        // Nobody is held while the server goes: who can be served in time is, the others are told to come again.
        self.look_at_held();
        if spread == Ticks(0) {
            self.cx.closing = true;
            self.answer_held();
        }
    }

    /// The drain was called off, or the time of standing by is over. What came in on a listener that went meanwhile, or before, still ends.
    pub(super) fn resume(&mut self) {
        self.call_off();
        (self.standing, self.cx.draining, self.cx.closing) = (false, false, false);
        for place in &mut self.places {
            let Some(conn) = &mut place.conn else { continue };
            if self.cx.listener(conn.listener()).is_some_and(|listener| !listener.removed) {
                conn.unretire(&self.cx);
            }
        }
        self.watch_listeners();
        self.look_at_held();
    }

    fn close_listeners(&mut self) {
        for number in 0..self.cx.listeners.capacity() {
            let Ok(short) = u32::try_from(number) else { continue };
            self.take_queue(short);
            self.unwatch(number);
            if let Some(listener) = self.cx.listeners.get_mut(number) {
                listener.socket = None;
            }
        }
    }

    fn show(&self, left: &AtomicUsize) -> Vec<Shown> {
        let one_less = |left: usize| left.checked_sub(1);
        let open = self.places.iter().filter_map(|place| place.conn.as_ref());
        open.take_while(|_| left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok())
            .map(|conn| conn.show(&self.cx))
            .collect()
    }

    fn cut(&mut self) -> Losses {
        let mut losses = Losses::default();
        // Who waits is told to come again; who is served is cut.
        self.cx.closing = true;
        self.answer_held();
        while let Some((number, arrival)) = self.arriving.pop_front() {
            if arrival.tcp && !arrival.handshake {
                losses.add(TunnelKind::Tcp.label(), 1);
            }
            self.turn_away(Some(number), &arrival);
        }
        for index in 0..self.places.len() {
            let Some(place) = self.places.get_mut(index) else { continue };
            let stamp = place.stamp;
            let (Some(conn), Ok(index)) = (place.conn.take(), u32::try_from(index)) else { continue };
            if let Some(kind) = conn.loss(&self.cx) {
                losses.add(kind, 1);
            }
            self.close(ConnKey { index, stamp }, conn, End::Cut);
        }
        let dropped = self.cx.log.flush();
        self.cx.cells().log_dropped.add(dropped);
        losses
    }
}
