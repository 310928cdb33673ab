//! The devices a shard knows (A8): where each stands, a cumulative cursor that only moves forward, and when it was last seen.
//! All of a shard's are in memory, some 150 bytes each, because a cursor's move answers with where the cursor stands and apply
//! must not read the disk. Grouped by vnode, so that retention can go through them piece by piece.

use std::collections::HashMap;

use iris_protocol::vnode::{VNODES, vnode_of, vnode_of_name};
use iris_protocol::{DeviceId, EntryId, UserId, VnodeId};

use super::hash::FastHash;
use super::types::RetentionTimes;

/// Devices of one user: more than anybody has. One more makes the one that was not seen for longest unknown, so that made-up
/// names fill no memory.
pub(super) const DEVICES_MAX: usize = 64;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: DeviceId,
    /// Everything up to here was received.
    pub(super) cursor: EntryId,
    /// Stamp of the last sign of life.
    pub(super) seen: EntryId,
}

/// A user's devices.
#[derive(Debug, Default)]
struct Devices {
    list: Vec<Device>,
    /// No entry of the inbox has a lower id, as far as this process knows. Spares retention looks that would find nothing.
    first_entry: EntryId,
}

impl Devices {
    /// What every device that was seen since has received.
    fn lowest(&self, seen_since: EntryId) -> Option<EntryId> {
        let alive = self.list.iter().filter(|device| device.seen >= seen_since);
        alive.map(|device| device.cursor).min()
    }
}

/// Devices by vnode, then user: a user has a handful.
#[derive(Debug)]
pub(super) struct Cursors {
    vnodes: Vec<HashMap<UserId, Devices, FastHash>>,
    len: usize,
}

/// An inbox that retention may have something to do in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) user: UserId,
    /// Devices not seen for too long.
    pub(super) expired: Vec<DeviceId>,
    /// What every other device has received, if there is another.
    pub(super) lowest: Option<EntryId>,
    /// Where to look for the first entry.
    pub(super) first_entry: EntryId,
}

impl Default for Cursors {
    fn default() -> Self {
        let hash = FastHash::default();
        Self { vnodes: (0..VNODES).map(|_| HashMap::with_hasher(hash)).collect(), len: 0 }
    }
}

impl Cursors {
    fn devices(&self, user: &str) -> Option<&Devices> {
        self.vnodes[usize::from(vnode_of_name(user).0)].get(user)
    }

    /// A device, if it is known.
    pub(super) fn get(&self, user: &str, device: &str) -> Option<&Device> {
        self.devices(user)?.list.iter().find(|known| known.name.as_str() == device)
    }

    /// The names as they are kept, where they are: saves making them again.
    pub(super) fn names(&self, user: &str, device: &str) -> Option<(UserId, DeviceId)> {
        let (user, devices) = self.vnodes[usize::from(vnode_of_name(user).0)].get_key_value(user)?;
        let device = devices.list.iter().find(|known| known.name.as_str() == device)?;
        Some((user.clone(), device.name.clone()))
    }

    /// Moves a device's cursor and its last sign of life forward, and makes it known. Returns the device that had to go for
    /// it, if one had to.
    pub(super) fn raise(
        &mut self,
        user: &UserId,
        device: &DeviceId,
        cursor: EntryId,
        seen: EntryId,
    ) -> Option<DeviceId> {
        let users = &mut self.vnodes[usize::from(vnode_of(user).0)];
        if !users.contains_key(user) {
            users.insert(user.clone(), Devices { list: Vec::with_capacity(1), first_entry: EntryId::ZERO });
        }
        let devices = users.get_mut(user)?;
        if let Some(known) = devices.list.iter_mut().find(|known| known.name == *device) {
            known.cursor = cursor.max(known.cursor);
            known.seen = seen.max(known.seen);
            return None;
        }
        let mut gone = None;
        if devices.list.len() >= DEVICES_MAX {
            let order = |device: &Device| (device.seen, device.name.clone());
            let longest = (0..devices.list.len()).min_by_key(|&at| order(&devices.list[at]))?;
            gone = Some(devices.list.remove(longest).name);
            self.len -= 1;
        }
        devices.list.push(Device { name: device.clone(), cursor, seen });
        self.len += 1;
        gone
    }

    /// Makes a device unknown if it was not seen since; its names, if it was known.
    pub(super) fn expire(&mut self, user: &str, device: &str, before: EntryId) -> Option<(UserId, DeviceId)> {
        let users = &mut self.vnodes[usize::from(vnode_of_name(user).0)];
        let (name, _) = users.get_key_value(user)?;
        let name = name.clone();
        let devices = users.get_mut(user)?;
        let at = devices.list.iter().position(|known| known.name.as_str() == device && known.seen < before)?;
        let device = devices.list.remove(at).name;
        if devices.list.is_empty() {
            users.remove(user);
        }
        self.len -= 1;
        Some((name, device))
    }

    /// What every known device of a user has received; `None` if it has no device.
    pub(super) fn lowest(&self, user: &str) -> Option<(UserId, EntryId)> {
        let (name, devices) = self.vnodes[usize::from(vnode_of_name(user).0)].get_key_value(user)?;
        Some((name.clone(), devices.lowest(EntryId::ZERO)?))
    }

    /// Inboxes of a vnode where devices are to expire or entries may be to go.
    pub(super) fn candidates(&self, vnode: VnodeId, times: RetentionTimes) -> Vec<Candidate> {
        let Some(users) = self.vnodes.get(usize::from(vnode.0)) else { return Vec::new() };
        let candidate = |(user, devices): (&UserId, &Devices)| {
            let expired = devices.list.iter().filter(|device| device.seen < times.devices_before);
            let expired: Vec<DeviceId> = expired.map(|device| device.name.clone()).collect();
            let lowest = devices.lowest(times.devices_before);
            let trims = lowest.is_some_and(|lowest| devices.first_entry <= lowest.min(times.last_to_trim()));
            (trims || !expired.is_empty()).then(|| Candidate {
                user: user.clone(),
                expired,
                lowest,
                first_entry: devices.first_entry,
            })
        };
        let mut found: Vec<_> = users.iter().filter_map(candidate).collect();
        found.sort_unstable_by(|a, b| a.user.cmp(&b.user));
        found
    }

    /// No entry of the inbox has an id below this one.
    pub(super) fn begins_at(&mut self, user: &UserId, first_entry: EntryId) {
        if let Some(devices) = self.vnodes[usize::from(vnode_of(user).0)].get_mut(user) {
            devices.first_entry = first_entry.max(devices.first_entry);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(user: &str, device: &str) -> (UserId, DeviceId) {
        (UserId::new(user).unwrap(), DeviceId::new(device).unwrap())
    }

    fn raise(cursors: &mut Cursors, user: &str, device: &str, cursor: u64, seen: u64) -> Option<DeviceId> {
        let (user, device) = names(user, device);
        cursors.raise(&user, &device, EntryId(cursor), EntryId(seen))
    }

    fn stands(cursors: &Cursors, user: &str, device: &str) -> Option<(u64, u64)> {
        cursors.get(user, device).map(|device| (device.cursor.0, device.seen.0))
    }

    #[test]
    fn moves_forward_only_and_knows_devices_apart() {
        let mut cursors = Cursors::default();
        raise(&mut cursors, "u", "phone", 5, 10);
        raise(&mut cursors, "u", "phone", 3, 20);
        raise(&mut cursors, "u", "phone", 4, 15);
        raise(&mut cursors, "u", "desk", 1, 30);
        assert_eq!((stands(&cursors, "u", "phone"), stands(&cursors, "u", "desk")), (Some((5, 20)), Some((1, 30))));
        assert_eq!((stands(&cursors, "u", "x"), stands(&cursors, "x", "desk"), cursors.len()), (None, None, 2));
        assert_eq!(cursors.lowest("u"), Some((names("u", "x").0, EntryId(1))));
        assert_eq!(cursors.lowest("x"), None);
    }

    #[test]
    fn a_device_expires_unless_it_was_seen() {
        let mut cursors = Cursors::default();
        raise(&mut cursors, "u", "phone", 5, 10);
        assert_eq!(cursors.expire("u", "phone", EntryId(10)), None, "seen just then");
        assert_eq!(cursors.expire("u", "phone", EntryId(11)), Some(names("u", "phone")));
        assert_eq!((cursors.expire("u", "phone", EntryId(11)), cursors.len(), cursors.lowest("u")), (None, 0, None));
    }

    #[test]
    fn made_up_devices_push_out_those_not_seen_for_longest() {
        let mut cursors = Cursors::default();
        for n in 0..DEVICES_MAX as u64 {
            assert_eq!(raise(&mut cursors, "u", &format!("d{n}"), n, 1_000 - n), None);
        }
        let oldest = format!("d{}", DEVICES_MAX - 1);
        assert_eq!(raise(&mut cursors, "u", "new", 7, 2_000), Some(names("u", &oldest).1));
        assert_eq!((cursors.len(), stands(&cursors, "u", &oldest)), (DEVICES_MAX, None));
        assert_eq!(raise(&mut cursors, "u", "new", 8, 2_001), None, "a known one pushes nobody out");
    }

    #[test]
    fn retention_looks_where_it_may_find_something() {
        let mut cursors = Cursors::default();
        let user = UserId::new("u").unwrap();
        let times =
            |trim: u64, devices: u64| RetentionTimes { trim_before: EntryId(trim), devices_before: EntryId(devices) };
        let look = |cursors: &Cursors, trim, devices| cursors.candidates(vnode_of(&user), times(trim, devices));
        raise(&mut cursors, "u", "phone", 50, 100);
        raise(&mut cursors, "u", "desk", 40, 200);
        let at = |lowest: u64, first_entry: u64, expired: &[&str]| Candidate {
            user: user.clone(),
            expired: expired.iter().map(|name| DeviceId::new(name).unwrap()).collect(),
            lowest: Some(EntryId(lowest)),
            first_entry: EntryId(first_entry),
        };
        assert_eq!(look(&cursors, 1_000, 0), [at(40, 0, &[])]);
        cursors.begins_at(&user, EntryId(41));
        assert_eq!(look(&cursors, 1_000, 100), [], "the desk needs everything there is");
        assert_eq!(look(&cursors, 1_000, 101), [at(40, 41, &["phone"])]);
        cursors.expire("u", "desk", EntryId(201));
        assert_eq!(look(&cursors, 1_000, 0), [at(50, 41, &[])]);
        assert_eq!(look(&cursors, 41, 0), [], "not old enough");
        assert_eq!(look(&cursors, 42, 0), [at(50, 41, &[])]);
    }
}
