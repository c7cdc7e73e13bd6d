//! The filters at an interface's clsact: that they changed, and in which order they run.
//!
//! Read by hand: all that is asked for lies in the fixed part of a message, and of the rest, which
//! differs by kind of filter and grows with every kernel, nothing can fail to be read.

use std::{io, mem::size_of, ops::RangeInclusive};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use nix::libc;

use super::netlink;

/// Where `struct tcmsg` has its fields (include/uapi/linux/rtnetlink.h), behind a family and padding.
const INDEX: usize = 4;
const HANDLE: usize = 8;
const PARENT: usize = 12;
const BYTES: usize = 20;
/// `RTM_NEWCHAIN` and its like.
const CHAINS: RangeInclusive<u16> = 100..=102;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// A message about a filter, or about the queueing discipline that filters are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The interface's index.
    pub(crate) index: u32,
    /// Tells filters of one priority apart; 0 stands for the priority itself.
    pub(crate) handle: u32,
}

/// Whether a message is one of traffic control's, of which only [`Filter`]s are read.
pub(crate) fn is_traffic_control(message: &NetlinkBuffer<&[u8]>) -> bool {
    let kind = message.message_type();
    // In between lie classes, and actions are told to the same group.
    (libc::RTM_NEWQDISC..=libc::RTM_GETACTION).contains(&kind) || CHAINS.contains(&kind)
}

impl Filter {
    /// Reads a message of traffic control's.
    pub(crate) fn read(message: &NetlinkBuffer<&[u8]>) -> Option<Self> {
        let about_filters =
            [libc::RTM_NEWQDISC, libc::RTM_DELQDISC, libc::RTM_NEWTFILTER, libc::RTM_DELTFILTER];
        about_filters.contains(&message.message_type()).then_some(())?;
        let field = |at: usize| {
            let bytes = message.payload().get(at..at + size_of::<u32>())?;
            bytes.try_into().ok().map(u32::from_ne_bytes)
        };
        Some(Self { index: field(INDEX)?, handle: field(HANDLE)? })
    }
}

/// Asks for the filters of one hook of an interface; they are told in the order in which they run.
pub(crate) fn request(index: u32, parent: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES + BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let length = u32::try_from(HEADER_BYTES + BYTES).unwrap_or_default();
    put(0, &length.to_ne_bytes());
    put(4, &libc::RTM_GETTFILTER.to_ne_bytes());
    put(6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    put(HEADER_BYTES + INDEX, &index.to_ne_bytes());
    put(HEADER_BYTES + PARENT, &parent.to_ne_bytes());
    bytes
}

/// The handles of the filters of one hook of an interface, in the order in which they run.
pub(crate) fn handles(index: u32, parent: u32) -> io::Result<Vec<u32>> {
    let listed = netlink::list_filters(index, parent)?;
    Ok(listed.into_iter().map(|filter| filter.handle).filter(|handle| *handle != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = request(7, 0);
        bytes.truncate(HEADER_BYTES);
        bytes.extend(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Filter> {
        let message = NetlinkBuffer::new_checked(bytes).unwrap();
        assert!(is_traffic_control(&message));
        Filter::read(&message)
    }

    #[test]
    fn the_fixed_part_says_where_and_which() {
        let mut fixed = [0; BYTES];
        fixed[INDEX] = 7;
        fixed[HANDLE] = 1;
        let filter = Some(Filter { index: 7, handle: 1 });
        assert_eq!(read(&message(libc::RTM_DELTFILTER, &fixed)), filter);
        let with_attributes = [&fixed[..], &[0xff; 64]].concat();
        assert_eq!(read(&message(libc::RTM_NEWTFILTER, &with_attributes)), filter);
    }

    #[test]
    fn what_is_short_or_of_another_kind_is_passed_over() {
        assert_eq!(read(&message(libc::RTM_NEWTFILTER, &[0; HANDLE])), None);
        assert_eq!(read(&message(libc::RTM_NEWACTION, &[0; BYTES])), None);
        assert_eq!(read(&message(*CHAINS.start(), &[0; BYTES])), None);
        let link = message(libc::RTM_NEWLINK, &[0; BYTES]);
        assert!(!is_traffic_control(&NetlinkBuffer::new_checked(&link[..]).unwrap()));
    }
}
