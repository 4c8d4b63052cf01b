//! Who a container runs as: numbers from the names that an image has in its `/etc/passwd` and `/etc/group`. Pure, but for
//! [`find`], which reads these two.

use std::fs::File;
use std::io::Read;

use super::protocol::Account;

/// Most bytes of such a file that are read.
const FILE_BYTES: u64 = 4 << 20;

/// A user found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) user: u32,
    pub(super) group: u32,
    /// All groups, the first one among them.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Looks a user up in the root directory of this process.
pub(super) fn find(account: &Account, further: &[u32]) -> Result<Found, String> {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        // An image need not have any.
        let file = File::open(path).map(|file| file.take(FILE_BYTES).read_to_end(&mut bytes));
        file.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    resolve(account, further, &read("/etc/passwd"), &read("/etc/group"))
}

/// Name, number, group and home of each user.
fn users(passwd: &str) -> impl Iterator<Item = (&str, u32, u32, &str)> {
    passwd.lines().filter_map(|line| {
        let parts: Vec<&str> = line.split(':').collect();
        let [name, _, user, group, _, home, ..] = parts[..] else { return None };
        Some((name, user.parse().ok()?, group.parse().ok()?, home))
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let (name, number) = (parts.next()?, parts.nth(1)?.parse().ok()?);
        Some((name, number, parts.next().unwrap_or_default()))
    })
}

/// As container runtimes do: a name has to be known, a number need not be; who is known has their groups too.
fn resolve(account: &Account, further: &[u32], passwd: &str, group: &str) -> Result<Found, String> {
    let (user, own_group) = match account.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (account.user.as_str(), None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let known =
        match user.parse::<u32>() {
            Ok(number) => users(passwd).find(|(_, known, ..)| *known == number),
            Err(_) => {
                let known = users(passwd).find(|(name, ..)| *name == user);
                Some(known.ok_or_else(|| {
                    format!("unable to find user {user}: no matching entries in passwd file")
                })?)
            }
        };
    let number = known.map_or_else(|| user.parse().unwrap_or_default(), |(_, number, ..)| number);
    let by_name = |text: &str| match text.parse::<u32>() {
        Ok(number) => Ok(number),
        Err(_) => groups(group)
            .find(|(name, ..)| *name == text)
            .map(|(_, number, _)| number)
            .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file")),
    };
    let first = match (account.group, own_group.filter(|group| !group.is_empty())) {
        (Some(group), _) => group,
        (None, Some(group)) => by_name(group)?,
        (None, None) => known.map_or(0, |(_, _, group, _)| group),
    };
    let mut all = vec![first];
    if let Some((name, ..)) = known.filter(|_| account.merge_groups) {
        let member = |members: &str| members.split(',').any(|member| member.trim() == name);
        all.extend(groups(group).filter(|(_, _, members)| member(members)).map(|(_, number, _)| number));
    }
    all.extend(further);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|group| seen.insert(*group));
    let home = known.map(|(.., home)| home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Found { user: number, group: first, groups: all, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nnginx:x:101:102:nginx:/var/cache/nginx:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ntty:x:5:nginx,other\nnginx:x:102:\nstaff:x:50:root\nodd:x:no:nginx\n";

    #[test]
    fn users_are_found_as_runtimes_find_them() {
        for (user, group, merge, further, want) in [
            ("", None, true, &[][..], Ok((0, 0, vec![0, 50], "/root"))),
            ("nginx", None, true, &[7], Ok((101, 102, vec![102, 5, 7], "/var/cache/nginx"))),
            ("nginx", None, false, &[7, 7], Ok((101, 102, vec![102, 7], "/var/cache/nginx"))),
            ("101", None, true, &[], Ok((101, 102, vec![102, 5], "/var/cache/nginx"))),
            ("1000", None, true, &[5], Ok((1000, 0, vec![0, 5], "/"))),
            ("1000:1001", None, true, &[], Ok((1000, 1001, vec![1001], "/"))),
            ("nginx:tty", None, true, &[], Ok((101, 5, vec![5], "/var/cache/nginx"))),
            ("nginx", Some(9), true, &[], Ok((101, 9, vec![9, 5], "/var/cache/nginx"))),
            ("nobody", None, true, &[], Err("unable to find user nobody")),
            ("root:none", None, true, &[], Err("unable to find group none")),
            ("-1", None, true, &[], Err("unable to find user -1")),
        ] {
            let account = Account { user: user.into(), group, merge_groups: merge };
            let found = resolve(&account, further, PASSWD, GROUP);
            match want {
                Ok((user, group, groups, home)) => {
                    let want = Found { user, group, groups, home: home.into() };
                    assert_eq!(found, Ok(want), "{account:?}");
                }
                Err(text) => assert!(found.is_err_and(|problem| problem.starts_with(text)), "{account:?}"),
            }
        }
        let empty = Account { user: "0".into(), ..Account::default() };
        assert_eq!(resolve(&empty, &[], "", "").unwrap().home, "/");
    }
}
