//! Copies that a worker has begun and not sent yet, in the order in which they go.

use std::collections::VecDeque;

use super::job::Job;
use crate::message::Priority;
use crate::route::Endpoint;

/// The most urgent ones first; among equals, as they came, and one that was put off behind those that were not.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Sorted by priority: what each sending takes is at, or near, the front.
    jobs: VecDeque<Job>,
    /// How many of them were put off somewhere.
    put_off: usize,
}

impl Ahead {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many of them were put off somewhere already.
    pub(super) fn put_off(&self) -> usize {
        self.put_off
    }

    /// The class of the most urgent one.
    pub(super) fn first_class(&self) -> Option<Priority> {
        self.jobs.front().map(|job| job.copy.message.priority)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter()
    }

    /// Behind its equals.
    pub(super) fn push(&mut self, job: Job) {
        let place = self.jobs.partition_point(|other| other.copy.message.priority <= job.copy.message.priority);
        self.insert(place, job);
    }

    /// Before its equals: it had its turn, and nothing was tried.
    pub(super) fn put_back(&mut self, job: Job) {
        let place = self.jobs.partition_point(|other| other.copy.message.priority < job.copy.message.priority);
        self.insert(place, job);
    }

    /// The most urgent one.
    pub(super) fn pop(&mut self) -> Option<Job> {
        self.remove(0)
    }

    /// The most urgent one that fits a session.
    pub(super) fn pop_fitting(&mut self, open: &Endpoint, max_sessions: usize) -> Option<Job> {
        let place = self.jobs.iter().position(|job| job.fits(open, max_sessions))?;
        self.remove(place)
    }

    /// Those that nothing was tried of yet.
    pub(super) fn take_untouched(&mut self) -> Vec<Job> {
        let (untouched, others) = std::mem::take(&mut self.jobs).into_iter().partition(Job::is_untouched);
        self.jobs = others;
        Vec::from(untouched)
    }

    fn insert(&mut self, place: usize, job: Job) {
        self.put_off += usize::from(!job.is_untouched());
        self.jobs.insert(place, job);
    }

    fn remove(&mut self, place: usize) -> Option<Job> {
        let job = self.jobs.remove(place)?;
        self.put_off -= usize::from(!job.is_untouched());
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::delivery::board::Ready;
    use crate::delivery::testing::{copy, route};
    use crate::outcome::{Fault, Peer, Phase};
    use crate::smtp::ConnectError;

    fn job(id: i64, priority: Priority) -> Job {
        let mut copy = copy(id);
        Arc::make_mut(&mut copy.message).priority = priority;
        let ready = Ready { copy: Arc::new(copy), route: route("a"), routing: Duration::ZERO, begun_at: None };
        Job::new(ready, Timestamp::UNIX_EPOCH)
    }

    /// One that could not be sent to `192.0.2.1`.
    fn put_off(id: i64) -> Job {
        let mut job = job(id, Priority::Normal);
        let peer = Arc::new(Peer { host: "mx.example.test".into(), address: ([192, 0, 2, 1], 25).into(), tls: None });
        let fault = Fault::TimedOut { phase: Phase::Greeting };
        job.connect_failed(&ConnectError { fault, peer, greeted: false, handshake: Duration::ZERO }, Duration::ZERO);
        job
    }

    fn ids<'j>(jobs: impl IntoIterator<Item = &'j Job>) -> Vec<i64> {
        jobs.into_iter().map(|job| job.copy.id.0).collect()
    }

    #[test]
    fn the_urgent_go_first_and_equals_as_they_came() {
        use Priority::{Bulk, Normal, Urgent};
        let mut ahead = Ahead::default();
        for (id, priority) in [(1, Normal), (2, Bulk), (3, Urgent), (4, Normal), (5, Urgent), (6, Bulk)] {
            ahead.push(job(id, priority));
        }
        ahead.put_back(job(7, Normal));
        assert_eq!(ids(ahead.iter()), [3, 5, 7, 1, 4, 2, 6]);
        let first = ahead.pop().unwrap();
        assert_eq!((first.copy.id.0, ahead.len()), (3, 6));
    }

    #[test]
    fn a_session_gets_what_fits_it_and_who_was_put_off_is_counted() {
        let open = route("a").endpoints[0].clone();
        let mut ahead = Ahead::default();
        ahead.push(put_off(1));
        ahead.push(job(2, Priority::Normal));
        ahead.push(put_off(3));
        assert_eq!((ahead.len(), ahead.put_off()), (3, 2));
        assert_eq!(ahead.pop_fitting(&open, 2).map(|job| job.copy.id.0), Some(2));
        assert!(ahead.pop_fitting(&open, 2).is_none());
        ahead.push(job(4, Priority::Normal));
        assert_eq!(ids(&ahead.take_untouched()), [4]);
        assert_eq!((ahead.pop().map(|job| job.copy.id.0), ahead.put_off()), (Some(1), 1));
    }
}
