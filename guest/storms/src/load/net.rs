//! Network configuration: an interface up and down, a socket that asks for packets, one that asks for
//! time stamps, and one that takes tunnels' packets.
//!
//! Each turns static keys over: `netstamp_needed_key` for the time stamps (net/core/dev.c), unless
//! somebody has wanted them since the boot, as on 6.12; `udp_encap_needed_key` for the tunnel
//! (net/ipv4/udp.c); and what protocols hang on an interface that is up.
#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::request::StormError;
use ipirig_system::{During, Errno};

/// `ETH_P_ALL` of include/uapi/linux/if_ether.h, in network byte order.
const ALL_PACKETS: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;

/// UDP_ENCAP and UDP_ENCAP_L2TPINUDP of include/uapi/linux/udp.h.
const ENCAPSULATION: i32 = 100;
const L2TP: i32 = 3;

/// How long a socket wants time stamps. The kernel turns the key over from a work queue: one that is
/// gone before the work runs makes no difference (`netstamp_clear` of net/core/dev.c).
const HOLD: Duration = Duration::from_millis(50);

pub(crate) fn run() -> Result<(), StormError> {
    let internet = socket(libc::AF_INET, libc::SOCK_DGRAM, 0, "CONFIG_INET")?;
    set_up(&internet, true).during(|| "bring lo up")?;
    let packets = socket(
        libc::AF_PACKET,
        libc::SOCK_RAW,
        ALL_PACKETS,
        "CONFIG_PACKET",
    )?;
    // socket(7): the kernel stamps packets on arrival as long as some socket wants it.
    set(&internet, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1).during(|| "ask for time stamps")?;
    set(&internet, libc::IPPROTO_UDP, ENCAPSULATION, L2TP).during(|| "ask for tunnels")?;
    thread::sleep(HOLD);
    drop(packets);
    set_up(&internet, false).during(|| "bring lo down")?;
    Ok(())
}

fn socket(family: i32, kind: i32, protocol: i32, option: &str) -> Result<OwnedFd, StormError> {
    // SAFETY: touches no memory of ours.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd >= 0 {
        // SAFETY: the kernel has just made it, and it is nobody else's.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    match Errno::last() {
        Errno(libc::ENOSYS) => Err(StormError::Lacking("no CONFIG_NET".to_owned())),
        Errno(libc::EAFNOSUPPORT) => Err(StormError::Lacking(format!("no {option}"))),
        errno => Ok(Err(errno).during(|| "open a socket")?),
    }
}

/// Brings the loopback interface up or down: netdevice(7).
fn set_up(socket: &OwnedFd, up: bool) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid `ifreq`: an empty name, and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = if up { libc::IFF_UP as i16 } else { 0 };
    // SAFETY: the kernel reads one `ifreq`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Sets an option of a socket.
fn set(socket: &OwnedFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads one `int`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}
