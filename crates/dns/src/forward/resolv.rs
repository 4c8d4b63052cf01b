//! Files that name servers, like `/etc/resolv.conf`.

use crate::corefile::{Transport, Upstream, upstream_address};

/// The servers of a file in the form of resolv.conf(5).
pub fn name_servers(text: &str) -> Vec<Upstream> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server).and_then(|address| upstream_address(Transport::Dns, address))
    };
    text.lines().filter_map(address).collect()
}

/// The addresses, with those of files in place of the files.
pub(super) fn expand(to: &[Upstream]) -> Vec<Upstream> {
    let of = |to: &Upstream| match to {
        Upstream::Address { .. } => vec![to.clone()],
        Upstream::File(file) => match std::fs::read_to_string(file) {
            Ok(text) => name_servers(&text),
            Err(error) => {
                tracing::warn!(file, %error, "can't read name servers");
                Vec::new()
            }
        },
    };
    to.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_a_file() {
        let text = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # old\n\
                    nameserver fe80::1%eth0\nnameserver x\nnameservers 192.0.2.2\noptions ndots:5\n";
        let found: Vec<_> = name_servers(text)
            .into_iter()
            .map(|upstream| match upstream {
                Upstream::Address { at, link, .. } => (at.to_string(), link),
                Upstream::File(file) => panic!("{file}"),
            })
            .collect();
        let want = [("192.0.2.1:53", None), ("[2001:db8::1]:53", None), ("[fe80::1]:53", Some("eth0"))];
        assert_eq!(found, want.map(|(at, link)| (at.to_owned(), link.map(str::to_owned))));
    }
}
