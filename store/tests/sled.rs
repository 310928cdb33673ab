//! The sled adapter: the suite every warm store passes, and what is particular to it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use iris_store::testing::warm_store_conforms;
use iris_store::warm::SledWarm;

#[test]
fn sled_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm");
    warm_store_conforms(&|| Arc::new(SledWarm::open(&path).unwrap()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
