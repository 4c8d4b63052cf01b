//! What the rules in a kernel have counted.

use std::io::Write;
use std::process::ExitCode;

use dyad_net::IpFamily;
use dyad_nft::Executor;
use serde::{Deserialize, Serialize};

/// What the rules of one chain with the same words have counted, since they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The family, as the API calls it.
    pub family: String,
    /// The chain.
    pub chain: String,
    /// What the rule says it is for; the reason of a policy's rule.
    pub rule: String,
    /// How many packets; rules for new connections count one of each connection.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Reads the counters of the network namespace of the calling thread. Needs `CAP_NET_ADMIN` there.
pub fn read() -> dyad_nft::Result<Vec<Counted>> {
    let counters = Executor::open()?.counters()?;
    Ok(counters
        .into_iter()
        .map(|((family, chain, rule), (packets, bytes))| Counted {
            family: family.as_str().to_owned(),
            chain,
            rule,
            packets,
            bytes,
        })
        .collect())
}

impl Counted {
    pub(super) fn is_of(&self, family: IpFamily) -> bool {
        self.family == family.as_str()
    }
}

/// `dyad internal counters`: prints them as JSON.
pub(crate) fn main() -> ExitCode {
    let printed = read().map_err(|error| error.to_string()).and_then(|counters| {
        let text = serde_json::to_vec(&counters).map_err(|error| error.to_string())?;
        std::io::stdout().write_all(&text).map_err(|error| error.to_string())
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: can't read the counters of nf_tables: {error}");
            ExitCode::FAILURE
        }
    }
}
