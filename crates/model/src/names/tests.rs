use super::*;

#[test]
fn accepts_what_kubernetes_accepts() {
    let long_label = "a".repeat(63);
    let long_name = format!("{0}.{0}.{0}.{1}", long_label, "a".repeat(61));
    let rows: &[(Rule, &[&str])] = &[
        (dns1123_subdomain, &["a", "1", "a-b", "a.b", "1.2.3", &long_name]),
        (dns1123_label, &["a", "1", "a--b", "123-abc", &long_label]),
        (dns1035_label, &["a", "abc-123"]),
        (wildcard_subdomain, &["*.example.com"]),
        (qualified_name, &["a", "A_b.c-d", "example.com/MyName", "1/2"]),
        (label_value, &["", "a", "A_b.c-d", "1"]),
        (path_segment, &["a", "A:b", "...", ""]),
        (port_name, &["http", "p1", "1p", "a-b"]),
        (environment_variable, &["A", "1", "a b", "."]),
        (config_key, &["a", ".a", "A_b.c-d"]),
        (http_header, &["X-A"]),
        (percentage, &["0%", "100%"]),
    ];
    for (rule, values) in rows {
        for value in *values {
            assert_eq!(rule(value), Vec::<String>::new(), "{value:?}");
        }
    }
}

#[test]
fn refuses_with_the_texts_of_kubernetes() {
    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
        '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
        '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
        start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
        '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    const KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
        alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
        '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let long = "a".repeat(64);
    let rows: &[(Rule, &str, &[&str])] = &[
        (dns1123_subdomain, "A", &[SUBDOMAIN]),
        (dns1123_subdomain, "", &[SUBDOMAIN]),
        (dns1123_subdomain, "a..b", &[SUBDOMAIN]),
        (dns1123_subdomain, "-a", &[SUBDOMAIN]),
        (dns1123_label, "a.b", &["must not contain dots"]),
        (dns1123_label, "a_b", &[LABEL]),
        (dns1123_label, &long, &["must be no more than 63 characters"]),
        (qualified_name, "/a", &["prefix part must be non-empty"]),
        (qualified_name, "-a", &[&format!("name part {KEY}")]),
        (qualified_name, "", &["name part must be non-empty", &format!("name part {KEY}")]),
        (qualified_name, "X/a", &[&format!("prefix part {SUBDOMAIN}")]),
        (path_segment, "..", &["may not be '..'"]),
        (path_segment, "a/b%", &["may not contain '/'", "may not contain '%'"]),
        (port_name, "1", &["must contain at least one letter (a-z)"]),
        (port_name, "a-", &["must not begin or end with a hyphen"]),
        (config_key, "..a", &["must not start with '..'"]),
    ];
    for (rule, value, wanted) in rows {
        assert_eq!(rule(value), *wanted, "{value:?}");
    }
}
