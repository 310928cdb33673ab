//! Where a test's randomness comes from: `IRIS_TEST_SEED`, or a fresh seed. A failing test prints the command that replays it.
//! Also the knobs that make runs longer.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The variable that replays a run.
pub const SEED_VARIABLE: &str = "IRIS_TEST_SEED";

/// The variable that sets how many rounds a test of many rounds has.
const ROUNDS_VARIABLE: &str = "IRIS_TEST_ROUNDS";

/// The seed of one test. Prints how to replay when dropped in a panic.
#[derive(Debug)]
pub struct Seed {
    value: u64,
    test: String,
}

impl Seed {
    /// Takes the seed from the environment, or a fresh one. Call it on the test's own thread, which has its name.
    #[must_use]
    pub fn pick() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.trim().parse().ok());
        let value = given.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let test = std::thread::current().name().unwrap_or("").to_owned();
        Self { value, test }
    }

    /// The number itself.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.value
    }

    /// A generator for one purpose: adding draws for one purpose does not change those of another.
    #[must_use]
    pub fn rng(&self, purpose: &str) -> StdRng {
        rng(self.value, purpose)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay with: {SEED_VARIABLE}={} cargo nextest run -p iris-tests -E 'test(={})'",
                self.value, self.test
            );
        }
    }
}

/// The generator of a seed for one purpose.
#[must_use]
pub fn rng(seed: u64, purpose: &str) -> StdRng {
    // FNV-1a: any mixing that is the same on every machine does.
    let mixed = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    StdRng::seed_from_u64(mixed)
}

/// How many rounds to run: `default`, or what `IRIS_TEST_ROUNDS` says.
#[must_use]
pub fn rounds(default: usize) -> usize {
    std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn the_same_seed_and_purpose_give_the_same_numbers() {
        let draw = |seed, purpose| rng(seed, purpose).random::<u64>();
        assert_eq!(draw(7, "plan"), draw(7, "plan"));
        assert_ne!(draw(7, "plan"), draw(7, "kills"));
        assert_ne!(draw(7, "plan"), draw(8, "plan"));
    }
}
