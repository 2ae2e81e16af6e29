//! The two text formats that Prometheus reads. What counts is written in the newer one, OpenMetrics 1.0; whoever does not ask
//! for that gets the older one, 0.0.4, in which counters are declared by the name of their sample and there is no `info`.

use axum::http::HeaderValue;

/// Which format a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// Version 0.0.4 of Prometheus' own format, which every reader knows.
    Text,
    OpenMetrics,
}

impl Exposition {
    /// By the header `Accept`.
    pub(super) fn asked(accept: Option<&HeaderValue>) -> Self {
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_asked = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let is_it =
                parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            // A weight of 0 says that it is not acceptable (RFC 9110, section 12.4.2).
            let is_refused = |parameter: &str| {
                parameter.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32))
            };
            is_it && !parts.any(is_refused)
        };
        if accept.split(',').any(is_asked) { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The text in this format of what was written as OpenMetrics.
    pub(super) fn of(self, open: String) -> String {
        match self {
            Self::Text => to_text(&open),
            Self::OpenMetrics => open,
        }
    }
}

fn to_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    // The line # HELP of a family, which comes before its # TYPE.
    let mut help = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), words) => help = Some(words.unwrap_or_default()),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                if let Some(help) = help.take() {
                    text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            // # UNIT and # EOF
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_open_metrics_gets_it() {
        let asked = |accept: &str| Exposition::asked(Some(&HeaderValue::from_str(accept).unwrap()));
        assert_eq!(Exposition::asked(None), Exposition::Text);
        for text in ["*/*", "text/plain", "text/plain, application/openmetrics-text;q=0", "application/json"]
        {
            assert_eq!(asked(text), Exposition::Text, "{text}");
        }
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for open in ["application/openmetrics-text", prometheus] {
            assert_eq!(asked(open), Exposition::OpenMetrics, "{open}");
        }
    }

    #[test]
    fn the_older_format_declares_what_its_samples_are_called() {
        let open = "# HELP x_requests Answers a kind.\n# TYPE x_requests counter\nx_requests_total{kind=\"block\"} 3\n\
                    # HELP x_guest_seconds Time.\n# TYPE x_guest_seconds histogram\n# UNIT x_guest_seconds seconds\n\
                    x_guest_seconds_count 1\n# HELP x_build Which.\n# TYPE x_build info\nx_build_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP x_requests_total Answers a kind.\n# TYPE x_requests_total counter\n\
                    x_requests_total{kind=\"block\"} 3\n# HELP x_guest_seconds Time.\n# TYPE x_guest_seconds histogram\n\
                    x_guest_seconds_count 1\n# HELP x_build_info Which.\n# TYPE x_build_info gauge\nx_build_info{v=\"1\"} 1\n";
        assert_eq!(Exposition::Text.of(open.to_owned()), text);
        assert_eq!(Exposition::OpenMetrics.of(open.to_owned()), open);
    }
}
