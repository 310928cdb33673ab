//! Where each device stands (A8): cumulative cursors that only move forward. All of a shard's are in memory, some 100 bytes
//! each, because a cursor's move answers with where the cursor stands and apply must not read the disk.

use std::collections::HashMap;

use iris_protocol::{DeviceId, EntryId, UserId};

use super::hash::FastHash;

/// Cursors by user, then device: a user has a handful.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    users: HashMap<UserId, Vec<(DeviceId, EntryId)>, FastHash>,
    len: usize,
}

impl Cursors {
    /// Zero if it never moved.
    pub(super) fn get(&self, user: &str, device: &str) -> EntryId {
        let devices = self.users.get(user).map_or(&[][..], Vec::as_slice);
        devices.iter().find(|(known, _)| known.as_str() == device).map_or(EntryId::ZERO, |(_, cursor)| *cursor)
    }

    /// The names as they are kept, if this cursor exists: saves making them again.
    pub(super) fn names(&self, user: &str, device: &str) -> Option<(UserId, DeviceId)> {
        let (user, devices) = self.users.get_key_value(user)?;
        let (device, _) = devices.iter().find(|(known, _)| known.as_str() == device)?;
        Some((user.clone(), device.clone()))
    }

    /// Moves a cursor forward; true if it is new.
    pub(super) fn raise(&mut self, user: &UserId, device: &DeviceId, cursor: EntryId) -> bool {
        if !self.users.contains_key(user) {
            self.users.insert(user.clone(), Vec::with_capacity(1));
        }
        let Some(devices) = self.users.get_mut(user) else { return false };
        if let Some((_, at)) = devices.iter_mut().find(|(known, _)| known == device) {
            *at = cursor.max(*at);
            return false;
        }
        devices.push((device.clone(), cursor));
        self.len += 1;
        true
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All of them, in order of their names: a checkpoint writes the same bytes on every replica.
    pub(super) fn to_vec(&self) -> Vec<(UserId, DeviceId, EntryId)> {
        let each = self
            .users
            .iter()
            .flat_map(|(user, devices)| devices.iter().map(|(device, cursor)| (user.clone(), device.clone(), *cursor)));
        let mut all: Vec<_> = each.collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_forward_only_and_knows_devices_apart() {
        let (user, phone, desk) =
            (UserId::new("u").unwrap(), DeviceId::new("phone").unwrap(), DeviceId::new("desk").unwrap());
        let mut cursors = Cursors::default();
        assert!(cursors.raise(&user, &phone, EntryId(5)));
        assert!(!cursors.raise(&user, &phone, EntryId(3)));
        assert!(cursors.raise(&user, &desk, EntryId(1)));
        assert_eq!((cursors.get("u", "phone"), cursors.get("u", "desk")), (EntryId(5), EntryId(1)));
        assert_eq!((cursors.get("u", "x"), cursors.get("x", "desk"), cursors.len()), (EntryId::ZERO, EntryId::ZERO, 2));
    }
}
