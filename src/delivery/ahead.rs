//! Copies that a worker has begun and not sent yet, in the order in which they go.

use std::collections::VecDeque;

use super::job::Job;
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
