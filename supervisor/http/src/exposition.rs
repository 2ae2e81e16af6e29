//! The two text formats of `/metrics`. Metrics are written as OpenMetrics 1.0. Clients that do not ask for OpenMetrics get
//! Prometheus' older format 0.0.4. In the older format, the declaration of a counter has the suffix `_total`, and the type
//! `info` does not exist.

use axum::http::HeaderValue;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// Prometheus' own format, version 0.0.4. Every reader knows it.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// The format that the `Accept` header asks for.
    pub(crate) fn negotiated(accept: Option<&HeaderValue>) -> Self {
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_asked = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let is_open_metrics =
                parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            // A weight of 0 means "not acceptable" (RFC 9110, section 12.4.2).
            let is_refused = |parameter: &str| {
                parameter.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32))
            };
            is_open_metrics && !parts.any(is_refused)
        };
        if accept.split(',').any(is_asked) { Self::OpenMetrics } else { Self::Text }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Converts `open`, a text in OpenMetrics, to this format.
    pub(crate) fn convert(self, open: String) -> String {
        match self {
            Self::Text => to_text(&open),
            Self::OpenMetrics => open,
        }
    }
}

fn to_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    // The `# HELP` line of a metric, which comes before its `# TYPE` line.
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
            // `# UNIT` and `# EOF` do not exist in the older format.
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
    fn only_clients_that_ask_for_open_metrics_get_it() {
        let asked = |accept: &str| Exposition::negotiated(Some(&HeaderValue::from_str(accept).unwrap()));
        assert_eq!(Exposition::negotiated(None), Exposition::Text);
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
    fn the_older_format_declares_the_names_of_its_samples() {
        let open = "# HELP x_requests Answers a kind.\n# TYPE x_requests counter\nx_requests_total{kind=\"block\"} 3\n\
                    # HELP x_guest_seconds Time.\n# TYPE x_guest_seconds histogram\n# UNIT x_guest_seconds seconds\n\
                    x_guest_seconds_count 1\n# HELP x_build Which.\n# TYPE x_build info\nx_build_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP x_requests_total Answers a kind.\n# TYPE x_requests_total counter\n\
                    x_requests_total{kind=\"block\"} 3\n# HELP x_guest_seconds Time.\n# TYPE x_guest_seconds histogram\n\
                    x_guest_seconds_count 1\n# HELP x_build_info Which.\n# TYPE x_build_info gauge\nx_build_info{v=\"1\"} 1\n";
        assert_eq!(Exposition::Text.convert(open.to_owned()), text);
        assert_eq!(Exposition::OpenMetrics.convert(open.to_owned()), open);
    }
}
