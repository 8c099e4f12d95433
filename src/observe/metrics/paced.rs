//! What takes long to read, for whoever asks often: takes the reading of it, hands on the last one as long as it serves.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was read serves for so many times as long as the reading took: however large what is read, and however often it is asked for, reading
/// takes no more than a twentieth of one processor.
const SHARE: u32 = 20;

/// The last reading.
#[derive(Debug)]
pub(super) struct Paced<T>(Mutex<Option<Reading<T>>>);

#[derive(Debug)]
struct Reading<T> {
    value: T,
    serves_until: Instant,
}

impl<T> Default for Paced<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Paced<T> {
    /// The last reading, or what `read` brings where that serves no longer. Who asks while it is being read gets the same.
    pub(super) async fn read<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut last = self.0.lock().await;
        let began = Instant::now();
        if let Some(reading) = last.as_ref().filter(|reading| began < reading.serves_until) {
            return Ok(reading.value.clone());
        }
        *last = None;
        let value = read.await?;
        let ended = Instant::now();
        let took: Duration = ended - began;
        *last = Some(Reading { value: value.clone(), serves_until: ended + took * SHARE });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    async fn second(value: u32) -> Result<u32, ()> {
        sleep(Duration::from_secs(1)).await;
        Ok(value)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reading_serves_for_a_while_and_a_failed_one_not_at_all() {
        let paced = Paced::default();
        assert_eq!(paced.read(second(1)).await, Ok(1));
        advance(Duration::from_secs(19)).await;
        assert_eq!(paced.read(second(2)).await, Ok(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(paced.read(async { Err(()) }).await, Err(()));
        assert_eq!(paced.read(second(3)).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_meanwhile_waits_for_the_same() {
        let paced = Paced::default();
        let (one, other) = tokio::join!(paced.read(second(1)), paced.read(second(2)));
        assert_eq!((one, other), (Ok(1), Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_no_time_is_read_each_time() {
        let paced = Paced::default();
        for value in [1, 2] {
            assert_eq!(paced.read(async { Ok::<_, ()>(value) }).await, Ok(value));
        }
    }
}
