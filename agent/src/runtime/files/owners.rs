//! Users and groups by name, since their numbers differ from host to host.

use std::collections::HashMap;

use holdfast_store::files::Owner;
use nix::unistd::{Gid, Group, Uid, User};

/// What was asked of the host's database, for the time of one look.
#[derive(Default)]
pub(super) struct Owners {
    user_names: HashMap<u32, Option<String>>,
    group_names: HashMap<u32, Option<String>>,
    users: HashMap<String, Option<u32>>,
    groups: HashMap<String, Option<u32>>,
}

impl Owners {
    /// The user of that number.
    pub(super) fn user(&mut self, id: u32) -> Owner {
        let ask = || User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name);
        Owner { id, name: self.user_names.entry(id).or_insert_with(ask).clone() }
    }

    /// The group of that number.
    pub(super) fn group(&mut self, id: u32) -> Owner {
        let ask = || Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name);
        Owner { id, name: self.group_names.entry(id).or_insert_with(ask).clone() }
    }

    /// The number of that user here: that of the name, or the same where the name is not known here.
    pub(super) fn uid(&mut self, owner: &Owner) -> u32 {
        let Some(name) = &owner.name else { return owner.id };
        let ask = || User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        self.users.entry(name.clone()).or_insert_with(ask).unwrap_or(owner.id)
    }

    /// The number of that group here.
    pub(super) fn gid(&mut self, owner: &Owner) -> u32 {
        let Some(name) = &owner.name else { return owner.id };
        let ask = || Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        self.groups.entry(name.clone()).or_insert_with(ask).unwrap_or(owner.id)
    }
}
