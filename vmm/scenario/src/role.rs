//! The roles of vCPUs, as results have them.

use ipirig_abi::Role;

/// The name of a role, as results have it.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Absent => "absent",
        Role::Control => "control",
        Role::Housekeeping => "housekeeping",
        Role::Isolated => "isolated",
    }
}
