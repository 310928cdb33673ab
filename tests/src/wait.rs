//! The one way tests wait: for a condition, with a deadline and a description. Owns the only sleep of this crate.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks: short against an election, long against a status request.
const POLL: Duration = Duration::from_millis(20);

/// Why a condition does not hold (yet).
#[derive(Debug)]
pub struct NotYet {
    why: String,
    hopeless: bool,
}

impl NotYet {
    /// It never will: waiting on makes no sense.
    pub fn never(why: impl Into<String>) -> Self {
        Self { why: why.into(), hopeless: true }
    }
}

impl<T: Into<String>> From<T> for NotYet {
    fn from(why: T) -> Self {
        Self { why: why.into(), hopeless: false }
    }
}

/// Looks again and again until `probe` has something, and returns it.
///
/// # Errors
/// The deadline passed, or the probe gave up for good; says what was awaited and what the last look saw.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, NotYet>,
) -> anyhow::Result<T> {
    let give_up = Instant::now() + deadline;
    let mut last = "the first look did not end".to_owned();
    loop {
        match timeout_at(give_up, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(NotYet { why, hopeless: true })) => bail!("waiting for {what} is hopeless: {why}"),
            Ok(Err(NotYet { why, .. })) => last = why,
            Err(_) => return Err(anyhow!("{what}: not within {deadline:?}; at the end: {last}")),
        }
        if Instant::now() + POLL >= give_up {
            return Err(anyhow!("{what}: not within {deadline:?}; at the end: {last}"));
        }
        sleep(POLL).await;
    }
}

/// Lets a fault last, or a host of the simulation rest. Nothing may depend on how long that is in truth.
pub async fn let_pass(time: Duration) {
    sleep(time).await;
}

/// Waits for a future, but not for ever.
///
/// # Errors
/// The deadline passed; says what was awaited.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> anyhow::Result<T> {
    let outcome = tokio::time::timeout(deadline, Box::pin(future)).await;
    outcome.map_err(|_| anyhow!("{what}: not within {deadline:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_until_it_holds_and_says_what_was_missing() {
        let mut looks = 0;
        let found = wait_for("three looks", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("only {looks}").into()) }
        });
        assert_eq!(found.await.unwrap(), 3);
        let late = wait_for("nothing", Duration::from_millis(50), async || Err::<(), _>("still nothing".into()));
        let error = late.await.unwrap_err().to_string();
        assert!(error.contains("nothing: not within") && error.contains("still nothing"), "{error}");
        let hopeless = wait_for("a dead one", Duration::from_secs(60), async || Err::<(), _>(NotYet::never("dead")));
        assert!(hopeless.await.unwrap_err().to_string().contains("hopeless: dead"));
    }
}
