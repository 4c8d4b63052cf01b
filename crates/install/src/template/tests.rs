use serde_json::json;

use super::*;

fn sample() -> Value {
    json!({
        "Values": {"on": true, "off": false, "name": "a", "none": "", "port": 0, "list": ["x", "y"], "empty": [], "map": {"k": "v"}},
        "Release": {"Namespace": "kube-system"},
    })
}

#[test]
fn templates_mean_what_they_mean_in_helm() {
    for (template, want) in [
        ("plain", "plain"),
        ("{{ .Values.name }}", "a"),
        ("{{.Values.name}}", "a"),
        ("{{ .Values.name | toJson }}", "\"a\""),
        ("{{ .Values.map | toJson }}", "{\"k\":\"v\"}"),
        ("{{ .Values.list | join \",\" }}", "x,y"),
        ("{{ index .Values.list 1 }}", "y"),
        ("{{ .Values.none | default .Values.name }}", "a"),
        ("{{ .Values.port | default (ternary 1 2 .Values.on) }}", "1"),
        ("{{ .Values.port | default (ternary 1 2 .Values.off) }}", "2"),
        ("{{ if .Values.on }}yes{{ else }}no{{ end }}", "yes"),
        ("{{ if .Values.empty }}yes{{ else }}no{{ end }}", "no"),
        ("{{ if and .Values.on (not .Values.off) (eq .Values.name \"a\") }}yes{{ end }}", "yes"),
        ("{{ if or .Values.off .Values.none }}yes{{ end }}", ""),
        ("{{ range .Values.list }}<{{ . }}{{ $.Values.name }}>{{ end }}", "<xa><ya>"),
        ("a\n{{- if .Values.on }}\nb\n{{- end }}\nc", "a\nb\nc"),
        ("a\n  {{- if .Values.off }}\n  b\n  {{- end }}\nc", "a\nc"),
        ("a {{- \"b\" -}} c", "abc"),
        ("-v={{ .Values.port }}", "-v=0"),
    ] {
        assert_eq!(render(template, &sample()).as_deref(), Ok(want), "{template}");
    }
}

#[test]
fn what_makes_no_sense_is_told_with_its_line() {
    for (template, problem) in [
        ("\n{{ .Values.name", "line 2: an action without an end"),
        ("\n\n{{ end }}", "line 3: {{ end }}: nothing is open"),
        ("{{ if .Values.on }}", "has no end"),
        ("{{ range .Values.list }}x{{ else }}y{{ end }}", "has no end"),
        ("{{ .Values.missing }}", "there is no .Values.missing"),
        ("{{ nindent 4 .Values.name }}", "\"nindent\" is not known"),
        ("{{ .Values.name | 5 }}", "only functions stand behind a pipe"),
        ("{{ eq .Values.name }}", "Eq does not take 1 arguments"),
        ("{{ index .Values.list 2 }}", "index 2 of 2 items"),
        ("{{ (.Values.name }}", "a parenthesis is not closed"),
        ("{{ .Values.name .Values.name }}", "one too many"),
        ("{{ \"a }}", "a text without an end"),
    ] {
        let found = render(template, &sample()).unwrap_err().to_string();
        assert!(found.contains(problem), "{template}: {found}");
    }
}

/// Whatever stands in a template, it renders or is refused.
#[test]
fn no_template_is_the_end_of_the_program() {
    let words = [
        "{{",
        "}}",
        "-",
        " ",
        ".",
        "$",
        "if",
        "else",
        "end",
        "range",
        "(",
        ")",
        "|",
        "\"",
        "toJson",
        "join",
        ".Values.list",
        "\n",
        "é",
    ];
    let mut seed = 1u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push_str(words[(seed >> 33) as usize % words.len()]);
        }
        let _ = render(&text, &sample());
    }
}
