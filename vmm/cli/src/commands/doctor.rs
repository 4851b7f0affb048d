//! `ipirig doctor`.

use ipirig_guest::Places;
use ipirig_machine::Host;
use ipirig_report::doctor::{GuestState, render};
use ipirig_verdict::exit::{Code, host_code};

use super::host::host;
use crate::failure::Failure;
use crate::output::{print, stdout_paint};

pub(crate) fn doctor() -> Result<Code, Failure> {
    let probed = host().map(Host::facts);
    print(&render(probed, &guest_state(), stdout_paint()))?;
    Ok(host_code(&probed))
}

fn guest_state() -> GuestState {
    let cache = match Places::find() {
        Ok(places) => places.cache,
        Err(error) => {
            return GuestState {
                text: error.to_string(),
                advice: None,
            };
        }
    };
    let shown = cache.display();
    let filled = std::fs::read_dir(&cache).is_ok_and(|mut entries| entries.next().is_some());
    if filled {
        return GuestState {
            text: format!("cache in {shown}"),
            advice: None,
        };
    }
    GuestState {
        text: format!("not built; the cache {shown} is empty"),
        advice: Some("`ipirig guest build` builds it, as does the first run".to_owned()),
    }
}
