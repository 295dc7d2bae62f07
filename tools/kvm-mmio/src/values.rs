// SPDX-License-Identifier: GPL-2.0
//! What the values of options mean.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::region::Owner;

/// `PID=SOCKET`.
pub fn monitor(text: &str) -> Result<(u32, PathBuf), String> {
    let parts = text.split_once('=').and_then(|(pid, socket)| {
        let pid = pid.parse().ok()?;
        Some((pid, socket.into()))
    });
    parts.ok_or_else(|| "not the PID of a QEMU, `=` and its socket".to_owned())
}

/// A file of names, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFile {
    pub owner: Owner,
    pub path: PathBuf,
}

/// `FILE`, `PID=FILE` or `all=FILE`.
pub fn owned_file(text: &str) -> Result<OwnedFile, std::convert::Infallible> {
    let owned = text.split_once('=').and_then(|(owner, path)| {
        let owner = match owner {
            "all" => Owner::All,
            pid => Owner::Process(pid.parse().ok()?),
        };
        Some((owner, path))
    });
    let (owner, path) = owned.unwrap_or((Owner::Only, text));
    let path = path.into();
    Ok(OwnedFile { owner, path })
}

/// A time of 1 ms to a week: `0.5` seconds, `10s`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time, such as 0.5, 500ms, 10s, 5m, 1h30m or 1d");
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let unit = match unit {
            // Of two numbers, each has a unit.
            "" if number == text => 1.0,
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        seconds += number * unit;
        rest = tail;
    }
    match text {
        "" => Err(wrong()),
        _ if (0.001..=604_800.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not between 1ms and 7d".to_owned()),
    }
}

/// `IP:PORT`, or `PORT`. Names of hosts are not looked up.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse().map_err(|_| {
            "neither a port nor an address with one, such as 127.0.0.1:9753 or [::]:9753".to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_owners() {
        for (text, owner, path) in [
            ("vm.mtree", Owner::Only, "vm.mtree"),
            ("4711=vm.mtree", Owner::Process(4711), "vm.mtree"),
            ("all=a=b", Owner::All, "a=b"),
            ("./all=b", Owner::Only, "./all=b"),
            ("vm=b", Owner::Only, "vm=b"),
        ] {
            let path = path.into();
            assert_eq!(owned_file(text), Ok(OwnedFile { owner, path }));
        }
    }

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("9753", "127.0.0.1:9753"),
            ("0.0.0.0:9753", "0.0.0.0:9753"),
            ("[::1]:9753", "[::1]:9753"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), wanted);
        }
        for text in ["", "localhost:9753", "70000", "127.0.0.1", ":9753"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("0.5", 500),
            ("10", 10_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("1.5m", 90_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "0", "-1", "NaN", "inf", "1e9", "8d", "1h30", "s", "1 s", "1.2.3s", "1w", "",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
