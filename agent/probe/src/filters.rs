//! What messages about traffic control say of the filters at an interface's clsact.
//!
//! Only the fixed part of a message is read. The rest differs by kind of filter and grows with every
//! kernel; nothing in it can fail to be read.

use std::ops::RangeInclusive;

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::tc::TcHeader;
use nix::libc;

/// `RTM_NEWCHAIN` and its like.
const CHAINS: RangeInclusive<u16> = 100..=102;

/// A message about a filter, or about the queueing discipline that filters are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The interface's index.
    pub(crate) index: u32,
    /// Distinguishes filters of one priority; 0 stands for the priority itself.
    pub(crate) handle: u32,
}

/// Whether a message is one of traffic control's, among which only [`Filter`]s are read.
pub(crate) fn is_traffic_control(message: &NetlinkBuffer<&[u8]>) -> bool {
    let kind = message.message_type();
    // In between lie classes, and actions are sent to the same group.
    (libc::RTM_NEWQDISC..=libc::RTM_GETACTION).contains(&kind) || CHAINS.contains(&kind)
}

impl Filter {
    /// Reads a message of traffic control's.
    pub(crate) fn read(message: &NetlinkBuffer<&[u8]>) -> Option<Self> {
        let about_filters =
            [libc::RTM_NEWQDISC, libc::RTM_DELQDISC, libc::RTM_NEWTFILTER, libc::RTM_DELTFILTER];
        about_filters.contains(&message.message_type()).then_some(())?;
        let TcHeader { index, handle, .. } = TcHeader::parse(message.payload()).ok()?;
        Some(Self { index: index.cast_unsigned(), handle: handle.into() })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;

    /// `struct nlmsghdr`.
    const HEADER_BYTES: usize = 16;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    fn fixed() -> Vec<u8> {
        let header = TcHeader { index: 7, handle: 0x7764_7270.into(), ..TcHeader::default() };
        let mut bytes = vec![0; header.buffer_len()];
        header.emit(&mut bytes);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Filter> {
        let message = NetlinkBuffer::new_checked(bytes).unwrap();
        assert!(is_traffic_control(&message));
        Filter::read(&message)
    }

    #[test]
    fn the_fixed_part_says_where_and_which() {
        let filter = Some(Filter { index: 7, handle: 0x7764_7270 });
        assert_eq!(read(&message(libc::RTM_DELTFILTER, &fixed())), filter);
        let with_attributes = [fixed(), vec![0xff; 64]].concat();
        assert_eq!(read(&message(libc::RTM_NEWTFILTER, &with_attributes)), filter);
    }

    #[test]
    fn what_is_short_or_of_another_kind_is_ignored() {
        assert_eq!(read(&message(libc::RTM_NEWTFILTER, &fixed()[..8])), None);
        assert_eq!(read(&message(libc::RTM_NEWACTION, &fixed())), None);
        assert_eq!(read(&message(*CHAINS.start(), &fixed())), None);
        let link = message(libc::RTM_NEWLINK, &fixed());
        assert!(!is_traffic_control(&NetlinkBuffer::new_checked(&link[..]).unwrap()));
    }
}
