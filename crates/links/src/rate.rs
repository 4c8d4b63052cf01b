//! How fast a link may send and take: token buckets, and what is taken sent through another link (`ifb`).

use crate::error::absent_is_fine;
use crate::wire::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use crate::{Handle, LinkChange, NewLink, Result};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_0000;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
/// Priority 1, and `ETH_P_ALL` in network byte order.
const ALL: u32 = 1 << 16 | (0x0003u16.to_be() as u32);
/// So long a packet waits at most, in milliseconds; what would wait longer is dropped.
const PATIENCE_MS: u64 = 25;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in a second.
    pub bytes: u64,
    /// So many bytes may go at once.
    pub burst: u32,
}

/// What may come to the other end of a link, and from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What it takes.
    pub ingress: Option<Rate>,
    /// What it sends.
    pub egress: Option<Rate>,
}

impl Limits {
    /// Whether there are any.
    pub const fn any(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }
}

/// `tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

impl Rate {
    /// `tc_tbf_qopt`: two rates, of which the second is none; limit, buffer and MTU, of which the kernel works the last
    /// two out.
    fn parameters(&self) -> Vec<u8> {
        let clamp = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let limit = clamp((self.bytes.saturating_mul(PATIENCE_MS) / 1000).saturating_add(self.burst.into()));
        let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
        bytes.extend(clamp(self.bytes).to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(limit.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }
}

impl Handle {
    /// Limits what a link sends, in place of what limits it now.
    fn limit_rate(&mut self, index: u32, rate: Rate) -> Result<()> {
        let what = || format!("limiting link {index} to {} bytes a second", rate.bytes);
        self.request(what, |flags| {
            let flags = flags | NLM_F_CREATE | NLM_F_REPLACE;
            let mut message = Message::new(RTM_NEWQDISC, flags, &tcmsg(index, 1 << 16, TC_H_ROOT, 0));
            message.put_text(TCA_KIND, "tbf");
            message.nest(TCA_OPTIONS, |options| {
                options.put(TCA_TBF_PARMS, &rate.parameters());
                options.put_u32(TCA_TBF_BURST, rate.burst);
                if rate.bytes > u32::MAX.into() {
                    options.put(TCA_TBF_RATE64, &rate.bytes.to_ne_bytes());
                }
            });
            message
        })
    }

    /// Limits what goes through the near end `index` of a link. What the other end sends goes on through an `ifb`, which is
    /// made as `through` says, in place of what is called so now.
    pub fn limit(&mut self, index: u32, limits: &Limits, through: &NewLink<'_>) -> Result<()> {
        if let Some(rate) = limits.ingress {
            self.limit_rate(index, rate)?;
        }
        let Some(rate) = limits.egress else { return Ok(()) };
        self.delete_link(through.name)?;
        // What leads to the one before.
        self.delete_ingress(index)?;
        self.add_link(through, "ifb", |_| {})?;
        let to = self.index(through.name)?;
        let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
        // A kernel without IPv6 knows no such mode.
        let _ = self.change_link(to, &quiet);
        self.change_link(to, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        self.limit_rate(to, rate)?;
        self.redirect_ingress(index, to)
    }

    /// Does nothing with what a link takes.
    fn delete_ingress(&mut self, index: u32) -> Result<()> {
        let what = || format!("deleting what looks at what link {index} takes");
        let deleted = self.request(what, |flags| {
            let mut message = Message::new(RTM_DELQDISC, flags, &tcmsg(index, INGRESS, TC_H_INGRESS, 0));
            message.put_text(TCA_KIND, "ingress");
            message
        });
        // The kernel says either of a link that has none.
        match absent_is_fine(deleted) {
            Err(error) if error.is_invalid() => Ok(()),
            other => other,
        }
    }

    /// Sends all that a link takes through the link `to`.
    fn redirect_ingress(&mut self, index: u32, to: u32) -> Result<()> {
        let what = || format!("redirecting what link {index} takes to link {to}");
        let made = self.request(what, |flags| {
            let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
            let mut message = Message::new(RTM_NEWQDISC, flags, &tcmsg(index, INGRESS, TC_H_INGRESS, 0));
            message.put_text(TCA_KIND, "ingress");
            message
        });
        match made {
            Err(error) if error.is_exists() => {}
            other => other?,
        }
        self.request(what, |flags| {
            let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
            let mut message = Message::new(RTM_NEWTFILTER, flags, &tcmsg(index, 0, INGRESS, ALL));
            message.put_text(TCA_KIND, "u32");
            message.nest(TCA_OPTIONS, |options| {
                // `tc_u32_sel` with one key, of which no bit counts.
                let mut all = [0; 32];
                (all[0], all[2]) = (TC_U32_TERMINAL, 1);
                options.put(TCA_U32_SEL, &all);
                options.nest(TCA_U32_ACT, |list| list.nest(1, |action| redirect(action, to)));
            });
            message
        })
    }
}

/// `mirred`, with `tc_mirred`: index, capabilities, verdict, two counts, what it does, and where to.
fn redirect(action: &mut Message, to: u32) {
    action.put_text(TCA_KIND, "mirred");
    let parameters = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to].map(u32::to_ne_bytes).concat();
    action.nest(TCA_OPTIONS, |options| options.put(TCA_MIRRED_PARMS, &parameters));
}
