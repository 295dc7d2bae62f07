// SPDX-License-Identifier: GPL-2.0
//! The other end of a network card that has no tap: it answers ARP, ping, and echoes UDP and TCP.
//!
//! It is whoever it is asked for, so that the guest needs a route, but no certain address. Each
//! segment of TCP comes back as it is: a guest that connects finds that the other end does so at
//! the same moment (RFC 9293, section 3.5), and from then on reads what it writes.

/// Its own address on the wire.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const ETHERTYPE_ARP: [u8; 2] = [8, 6];
const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV4: usize = 20;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What comes back for a frame, if anything.
pub fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let mut answer = frame.to_vec();
    let (ethernet, payload) = answer.split_at_mut_checked(ETHERNET)?;
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_ARP => answer_arp(payload)?,
        ETHERTYPE_IPV4 => answer_ip(payload)?,
        _ => return None,
    }
    ethernet.copy_within(6..12, 0);
    ethernet[6..12].copy_from_slice(&MAC);
    Some(answer)
}

/// RFC 826: sender's and target's hardware and protocol addresses begin at byte 8.
fn answer_arp(packet: &mut [u8]) -> Option<()> {
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let packet = packet.get_mut(..ARP)?;
    let (sender, target) = (14..18, 24..28);
    // Who asks for its own address wants to know whether another has it.
    if packet[..8] != REQUEST || packet[sender.clone()] == packet[target.clone()] {
        return None;
    }
    let wanted: [u8; 4] = packet[target].try_into().expect("4 bytes");
    packet[7] = 2;
    packet.copy_within(8..18, 18);
    packet[8..14].copy_from_slice(&MAC);
    packet[sender].copy_from_slice(&wanted);
    Some(())
}

/// RFC 791, without options and fragments.
fn answer_ip(packet: &mut [u8]) -> Option<()> {
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let (header, payload) = packet.get_mut(..length)?.split_at_mut_checked(IPV4)?;
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    let is_broadcast = header[16] >= 224;
    if header[0] != 0x45 || is_fragment || is_broadcast {
        return None;
    }
    // Sums are of the same words in another order, and stay.
    let (source, target) = header[12..20].split_at_mut(4);
    source.swap_with_slice(target);
    match header[9] {
        ICMP => answer_ping(payload),
        TCP | UDP => swap_ports(payload),
        _ => None,
    }
}

/// RFC 792: a request of type 8, an answer of type 0.
fn answer_ping(packet: &mut [u8]) -> Option<()> {
    let [8, 0, high, low, ..] = *packet else {
        return None;
    };
    packet[0] = 0;
    // RFC 1624 for a word that is less by 0x0800.
    let (sum, carry) = u16::from_be_bytes([high, low]).overflowing_add(0x0800);
    packet[2..4].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    Some(())
}

fn swap_ports(packet: &mut [u8]) -> Option<()> {
    let (source, target) = packet.get_mut(..4)?.split_at_mut(2);
    source.swap_with_slice(target);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071.
    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
        let total: u32 = words.sum();
        let folded = (total & 0xffff) + (total >> 16);
        ((folded & 0xffff) + (folded >> 16)) as u16
    }

    fn frame(ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &ethertype, payload].concat()
    }

    fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend([10, 0, 2, 15, 10, 0, 2, 2]);
        packet.extend(payload);
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet
    }

    #[test]
    fn answers_arp() {
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend([
            2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2,
        ]);
        let answer = answer(&frame(ETHERTYPE_ARP, &request)).unwrap();
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!(answer[22..28], MAC);
        assert_eq!(answer[28..32], [10, 0, 2, 2]);
        assert_eq!(answer[38..42], [10, 0, 2, 15]);
    }

    proptest! {
        #[test]
        fn a_ping_keeps_its_sum(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut ping = vec![8, 0, 0, 0];
            ping.extend(body);
            let checksum = !sum(&ping);
            ping[2..4].copy_from_slice(&checksum.to_be_bytes());
            let answer = answer(&frame(ETHERTYPE_IPV4, &ip(ICMP, &ping))).unwrap();
            let pong = &answer[ETHERNET + IPV4..];
            prop_assert_eq!(pong[0], 0);
            prop_assert_eq!(sum(pong), 0xffff);
        }

        #[test]
        fn survives_any_frame(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&frame);
        }

        #[test]
        fn udp_and_tcp_come_back(protocol in prop_oneof![Just(UDP), Just(TCP)],
                                 body in proptest::collection::vec(any::<u8>(), 4..40)) {
            let answer = answer(&frame(ETHERTYPE_IPV4, &ip(protocol, &body))).unwrap();
            let back = &answer[ETHERNET + IPV4..];
            prop_assert_eq!(&back[..2], &body[2..4]);
            prop_assert_eq!(&back[4..], &body[4..]);
        }
    }
}
